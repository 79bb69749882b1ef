"""Gives the units of one job or several to one team of workers, and hears what becomes of them.

A worker stays at a job as long as units of it wait, since opening a job may take minutes; then it joins another one.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING

from ..progress import BuildProgress
from .claims import CLAIMS
from .engine import Report, Team
from .job import BEGIN, Job, JobFile
from .records import Record, Records
from .worker import Assignment, Outcome, Task

if TYPE_CHECKING:
    from .run import Run

_WAIT, _POLL = 0.5, 2.0
"""Seconds to wait for reports at a time, and between two looks at the units of others."""
_POLL_SHARE = 10
"""A look at the units of others is worth at most this fraction of the time."""


class AllStoppedError(Exception):
    """No unit of any job would fare better than those that have failed."""


@dataclass(frozen=True)
class Taken:
    """A unit that somebody else is at: the claim, when it was last renewed, and since when that is known here."""

    claim: tuple[str, str]
    renewed: float | None
    since: float


@dataclass
class Part:
    """One of the jobs.

    Attributes:
        queue: units that wait for a worker.
        taken: units that other drivers' workers are at.
        attempts: failed ones, by unit.
        failed_at: by unit that waits for another attempt, the worker at which the last one failed.
        failed: reasons, by unit that failed at every attempt.
        stopped: why no more of its units are made, else "".
    """

    job: Job
    records: Records
    queue: deque[int] = field(default_factory=deque)
    taken: dict[int, Taken] = field(default_factory=dict)
    attempts: Counter[int] = field(default_factory=Counter)
    failed_at: dict[int, str] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    made: int = 0
    rows: int = 0
    stopped: str = ""

    def rows_of(self, index: int) -> int:
        """The rows of a unit; none of the task that begins the job."""
        return self.job.rows(index) if index != BEGIN else 0

    def next_for(self, worker: str, workers: int) -> int:
        """Take a unit off the queue; of the first ones, preferably one at which this worker has not failed."""
        first = list(islice(self.queue, max(1, workers)))
        index = next((index for index in first if self.failed_at.get(index) != worker), first[0])
        self.queue.remove(index)
        return index


class Dispatch:
    """The workers and what they are at; `closing` ends them. The queues of `parts` are its callers' to fill."""

    def __init__(self, jobs: Sequence[Job], how: Run, title: str, closing: ExitStack) -> None:
        self.parts = [Part(job, Records(job.store, job.key)) for job in jobs]
        self._how, self._title, self._closing = how, title, closing
        self._team: Team | None = None
        self._bar = BuildProgress(title, 1, shown=how.shown)
        self._at_work, self._at = dict[str, tuple[Part, int]](), dict[str, int]()
        self._lost, self._notes, self._rows_of = set[str](), set[str](), defaultdict[str, float](float)
        self._next_look, self._workers = 0.0, 0

    def count(self, total: int, done: int) -> None:
        """Show progress from here on."""
        self._bar = self._closing.enter_context(BuildProgress(self._title, total, done, self._how.shown))

    def work(self) -> None:
        """Have the units in the queues made; on return each is made, by whomever, or has failed.

        Raises:
            AllStoppedError: every job is stopped; some of its units may be at work still.
        """
        while self._at_work or any(part.queue or part.taken for part in self.parts):
            team = self._team = self._team or self._started()
            idle = team.idle()
            self._workers = len(idle) + len(self._at_work)
            for worker in idle:
                if (number := self._part_for(worker)) is not None:
                    team.give(worker, self._task(worker, number))
            team.wait(min(_WAIT, self._how.lease / 4))
            self._look()

    def _started(self) -> Team:
        jobs, lease = [part.job for part in self.parts], self._how.lease
        assignments = [Assignment(job.store, job.key, job.open, lease, job.title) for job in jobs]
        return self._closing.enter_context(self._how.engine.team(assignments, self._hear))

    def _part_for(self, worker: str) -> int | None:
        """The job that a worker is at while units of it wait; then one without workers, or the one with most to do."""
        waiting = [number for number, part in enumerate(self.parts) if part.queue]
        if self._at.get(worker) in waiting:
            return self._at[worker]
        crews = Counter(self._at.values())
        return max(waiting, key=lambda i: (not crews[i], len(self.parts[i].queue) / (1 + crews[i])), default=None)

    def _task(self, worker: str, number: int) -> Task:
        part = self.parts[number]
        index = part.next_for(worker, self._workers)
        self._at[worker], self._at_work[worker] = number, (part, index)
        return Task(index, part.job.payload(index), part.attempts[index] + 1, frozenset(self._lost), number)

    def _hear(self, report: Report) -> None:
        worker = report.worker
        if report.note and report.note not in self._notes:
            self._notes.add(report.note)
            self._bar.say(report.note)
        self._advance(worker, report.rows)
        if report.death:
            self._lost.add(worker)
            self._at.pop(worker, None)
            if worker in self._at_work:
                self._fail(*self._at_work.pop(worker), worker, report.death)
        if report.outcome is not None and worker in self._at_work:
            self._settle(self._at_work.pop(worker)[0], report.outcome, worker)

    def _settle(self, part: Part, outcome: Outcome, worker: str) -> None:
        index = outcome.index
        rows = part.rows_of(index)
        match outcome.state:
            case "fatal":
                self._take_back(worker)
                self._stop(part, outcome.error)
            case "failed":
                self._fail(part, index, worker, outcome.error)
            case "taken":
                part.taken[index] = Taken(outcome.claim, None, time.monotonic())
            case "done" | "present":
                part.failed_at.pop(index, None)
                self._advance(worker, rows - self._rows_of.pop(worker, 0))
                self._rows_of.pop(worker, None)
                if outcome.state == "done" and index != BEGIN:
                    part.made, part.rows = part.made + 1, part.rows + rows

    def _fail(self, part: Part, index: int, worker: str, reason: str) -> None:
        self._take_back(worker)
        if part.stopped:
            return
        part.attempts[index] += 1
        part.failed_at[index] = worker
        if part.attempts[index] < self._how.attempts:
            part.queue.appendleft(index)
            return
        part.failed_at.pop(index)
        if not part.made:  # nothing works so far: more of the same would not either
            self._stop(part, reason)
            return
        part.failed[index] = reason
        self._bar.say(f"unit {index} failed at {part.attempts[index]} attempts: {reason}")
        record = Record(part.job.key, worker=worker, attempts=part.attempts[index], error=reason)
        part.records.fail(index, record)

    def _stop(self, part: Part, reason: str) -> None:
        """Make no more units of a job; the others go on."""
        is_news = not part.stopped
        part.stopped = part.stopped or reason
        part.queue.clear()
        part.taken.clear()
        if all(part.stopped for part in self.parts):
            raise AllStoppedError
        if is_news:
            self._bar.say(f"{part.job.title}: {reason}")

    def _advance(self, worker: str, rows: float) -> None:
        if rows:
            self._rows_of[worker] += rows
            self._bar.advance(rows)

    def _take_back(self, worker: str) -> None:
        """Do not count the rows of a unit that was not finished."""
        self._advance(worker, -self._rows_of.pop(worker, 0))
        self._rows_of.pop(worker, None)

    def _look(self) -> None:
        """See what has become of the units that others are at, unless the last look was just now."""
        began = time.monotonic()
        looked_at = [part for part in self.parts if part.taken]
        if not looked_at or began < self._next_look:
            return
        for part in looked_at:
            self._look_at(part, began)
        ended = time.monotonic()
        self._next_look = ended + max(min(_POLL, self._how.lease / 4), _POLL_SHARE * (ended - began))

    def _look_at(self, part: Part, now: float) -> None:
        store = part.job.store
        done, claims = set(part.records.done()), store.list(CLAIMS)
        if part.job.begun():
            done.add(BEGIN)
            if JobFile.read(store) is None and BEGIN not in part.taken:  # others have finished the whole job
                done |= {*part.taken, *part.queue}
        for index, taken in list(part.taken.items()):
            name, token = taken.claim
            renewed = claims[name][1] if name in claims else None
            if index in done:
                self._bar.advance(part.rows_of(index))
                del part.taken[index]
            elif renewed is None or (renewed == taken.renewed and now - taken.since > self._how.lease):
                self._lost.add(token)
                part.queue.appendleft(index)
                del part.taken[index]
            elif renewed != taken.renewed:
                part.taken[index] = replace(taken, renewed=renewed, since=now)
        if gone := done.intersection(part.queue):
            part.queue = deque(index for index in part.queue if index not in gone)
            self._bar.advance(sum(map(part.rows_of, gone)))
