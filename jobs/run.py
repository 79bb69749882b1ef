"""The driver of a job: a queue of units, a count of attempts, one progress bar, and nothing else.

It makes no unit and holds no lock: workers claim and record their units. Any number of drivers may run one job.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice

from ..console import counted
from ..errors import NbenchError
from ..progress import BuildProgress
from .claims import CLAIMS, LEASE, Owner, owners
from .engine import Engine, Here, Report, Team
from .job import BEGIN, JOB_FILE, Job, JobFile
from .records import FAILURES, RECORDS, Record, Records
from .store import ATTEMPTS as UNFINISHED
from .store import Store
from .worker import Assignment, Outcome, Task

ATTEMPTS = 3
_WAIT, _POLL = 0.5, 2.0
"""Seconds to wait for reports at a time, and between two looks at the units of others."""
_POLL_SHARE = 10
"""A look at the units of others is worth at most this fraction of the time."""


@dataclass(frozen=True)
class Run:
    """How to run a job.

    Attributes:
        share: of units that this driver makes, as part and number of parts, or as a range; None for all.
        attempts: at a unit, before it counts as failed.
        lease: seconds without a sign of life after which a unit is taken over.
        retry_failed: also make the units that failed before.
    """

    engine: Engine = field(default_factory=Here)
    share: range | tuple[int, int] | None = None
    attempts: int = ATTEMPTS
    lease: float = LEASE
    retry_failed: bool = False
    shown: bool = True

    @property
    def is_shared(self) -> bool:
        """Whether other processes work in the same store."""
        return self.share is not None or not isinstance(self.engine, Here)

    def own(self, units: Collection[int]) -> list[int]:
        """The units of this driver's share."""
        if isinstance(self.share, tuple):
            part, parts = self.share
            return sorted(units)[part::parts]
        return sorted(units if self.share is None else set(units) & set(self.share))


QUIET = Run(shown=False)
"""In this process, without a word."""


@dataclass(frozen=True)
class Summary:
    """What a run has done.

    Attributes:
        made: units made by this run.
        rows: rows in them.
        failed: reasons by unit.
        left: units that nobody has finished yet.
        over: whether others have finished the whole job, and removed its records.
    """

    made: int
    rows: int
    failed: dict[int, str]
    left: int
    over: bool = False

    def check(self, job: Job, again: str = "the same command") -> None:
        """Refuse to go on if units have failed; `again`: what makes them once more.

        Raises:
            NbenchError: some have; the message has the first reason.
        """
        if self.failed:
            first = min(self.failed)
            raise NbenchError(
                f"{job.title}: {counted(len(self.failed), 'unit')} failed at every attempt, the first (unit {first}): "
                f"{self.failed[first]}; all others are kept: fix it, then run {again}"
            )


def run(job: Job, how: Run) -> Summary:
    """Make all units of a job that are not made, or those of this driver's share; on return nobody is at these.

    Raises:
        NbenchError: another job is at work in the store; the job cannot begin; a disk is full; or the first unit failed
            at every attempt.
    """
    records = Records(job.store, job.key)
    with ExitStack() as closing:
        dispatch = _Dispatch(job, records, how, closing)
        if not job.begun():
            dispatch.work([BEGIN])
        units, before = job.units(), set(job.made_before())
        if before.issuperset(units):
            return Summary(0, 0, {}, 0)
        _take_up(job, how.lease)
        done = before | set(records.done())
        failed = {} if how.retry_failed else {i: r.error for i, r in records.read(records.failed(), FAILURES).items()}
        todo = [index for index in how.own(units) if index not in done and index not in failed]
        if todo:
            dispatch.count(sum(map(job.rows, units)), sum(map(job.rows, done)))
            dispatch.work(todo)
    recorded = set(records.done())
    failed = {index: error for index, error in (failed | dispatch.failed).items() if index not in recorded}
    over = JobFile.read(job.store) is None
    left = 0 if over else len(set(units) - before - recorded)
    return Summary(dispatch.made, dispatch.rows, failed, left, over)


def complete(job: Job, how: Run) -> tuple[Summary, dict[int, Record]]:
    """Run a job; if nothing is left of it, also the records of its units, without those `made_before`.

    Records and files that a power cut or somebody else has damaged are removed, and their units made again.

    Raises:
        NbenchError: as `run`.
    """
    made = rows = 0
    while True:
        summary = run(job, how)
        made, rows = made + summary.made, rows + summary.rows
        summary = replace(summary, made=made, rows=rows)
        if summary.over or summary.left or summary.failed or how.share is not None:
            return summary, {}
        units, of = set(job.units()) - set(job.made_before()), Records(job.store, job.key)
        records = of.sound(units)
        if damaged := job.damaged(records):
            job.store.remove(damaged.values())
            of.forget(damaged)
        elif len(records) == len(units):
            return summary, records


def check_alone(store: Store, lease: float = LEASE) -> None:
    """Refuse to change a store at which others work.

    Raises:
        NbenchError: somebody has a claim there and renews it.
    """
    if owner := _living(store, lease):
        raise NbenchError(f"{owner.name} is writing to {store.url}: wait for it to end, or choose another --out")


def clear(store: Store) -> None:
    """Remove all that a job keeps beside its files; its own file goes first, by which workers know that it is over."""
    store.remove([JOB_FILE])
    for folder in (RECORDS, FAILURES, CLAIMS, UNFINISHED):
        store.remove_folder(folder)


def _take_up(job: Job, lease: float) -> None:
    """Start the job in its store, or join those who are at it.

    Raises:
        NbenchError: others are at another job there.
    """
    units = job.units()
    rows = [job.rows(index) for index in units]
    present = JobFile.read(job.store)
    if present is not None and present.key != job.key:
        check_alone(job.store, lease)
        clear(job.store)
    before = len(job.made_before())
    job.store.create(
        JOB_FILE, JobFile(job.key, job.title, len(rows), sum(rows), max(rows, default=0), before).to_json()
    )


def _living(store: Store, lease: float) -> Owner | None:
    """An owner of a claim that is renewed within a lease; None if there is none."""
    before, began = store.list(CLAIMS), time.monotonic()
    while living := owners(store):
        if alive := [owner for owner in living if owner.alive]:
            return alive[0]
        if store.list(CLAIMS) != before:
            return living[0]
        if time.monotonic() - began > lease:
            break
        time.sleep(min(_POLL, lease / 4))
    return None


@dataclass(frozen=True)
class _Taken:
    """A unit that somebody else is at: the claim, when it was last renewed, and since when that is known here."""

    claim: tuple[str, str]
    renewed: float | None
    since: float


class _Dispatch:
    """Gives units to workers and hears what becomes of them."""

    def __init__(self, job: Job, records: Records, how: Run, closing: ExitStack) -> None:
        self._job, self._records, self._how, self._closing = job, records, how, closing
        self._team: Team | None = None
        self._bar = BuildProgress(job.title, 1, shown=how.shown)
        self._queue, self._at_work = deque[int](), dict[str, int]()
        self._taken = dict[int, _Taken]()
        self._attempts, self._failed_at = Counter[int](), dict[int, str]()
        self._lost, self._notes, self._rows_of = set[str](), set[str](), defaultdict[str, float](float)
        self._next_look, self._workers = 0.0, 0
        self.made = self.rows = 0
        self.failed = dict[int, str]()

    def count(self, total: int, done: int) -> None:
        """Show progress from here on."""
        self._bar = self._closing.enter_context(BuildProgress(self._job.title, total, done, self._how.shown))

    def work(self, indices: Iterable[int]) -> None:
        """Have units made; on return each is made, by whomever, or has failed."""
        if self._team is None:
            job, how = self._job, self._how
            assignment = Assignment(job.store, job.key, job.open, how.lease, job.title)
            self._team = self._closing.enter_context(how.engine.team(assignment, self._hear))
        self._queue.extend(indices)
        while self._queue or self._at_work or self._taken:
            idle = self._team.idle()
            self._workers = len(idle) + len(self._at_work)
            for worker in idle:
                if (index := self._next(worker)) is not None:
                    self._at_work[worker] = index
                    payload, attempt = self._job.payload(index), self._attempts[index] + 1
                    self._team.give(worker, Task(index, payload, attempt, frozenset(self._lost)))
            self._team.wait(min(_WAIT, self._how.lease / 4))
            if self._taken and time.monotonic() >= self._next_look:
                self._look()

    def _next(self, worker: str) -> int | None:
        """The next unit for a worker; with other workers there, preferably one at which this one has not failed."""
        first = list(islice(self._queue, max(1, self._workers)))
        index = next((index for index in first if self._failed_at.get(index) != worker), first[0] if first else None)
        if index is not None:
            self._queue.remove(index)
        return index

    def _hear(self, report: Report) -> None:
        if report.note and report.note not in self._notes:
            self._notes.add(report.note)
            self._bar.say(report.note)
        self._advance(report.worker, report.rows)
        if report.death:
            self._lost.add(report.worker)
            if (index := self._at_work.pop(report.worker, None)) is not None:
                self._fail(index, report.worker, report.death)
        if report.outcome is not None and self._at_work.pop(report.worker, None) is not None:
            self._settle(report.outcome, report.worker)

    def _settle(self, outcome: Outcome, worker: str) -> None:
        index = outcome.index
        rows = self._job.rows(index) if index != BEGIN else 0
        match outcome.state:
            case "fatal":
                raise NbenchError(outcome.error)
            case "failed":
                self._fail(index, worker, outcome.error)
            case "taken":
                self._taken[index] = _Taken(outcome.claim, None, time.monotonic())
            case "done" | "present":
                self._failed_at.pop(index, None)
                self._advance(worker, rows - self._rows_of.pop(worker, 0))
                self._rows_of.pop(worker, None)
                if outcome.state == "done" and index != BEGIN:
                    self.made, self.rows = self.made + 1, self.rows + rows

    def _fail(self, index: int, worker: str, reason: str) -> None:
        self._advance(worker, -self._rows_of.pop(worker, 0))
        self._rows_of.pop(worker, None)
        self._attempts[index] += 1
        self._failed_at[index] = worker
        if self._attempts[index] < self._how.attempts:
            self._queue.appendleft(index)
            return
        self._failed_at.pop(index)
        if not self.made:  # nothing works so far: more of the same would not either
            raise NbenchError(reason)
        self.failed[index] = reason
        self._bar.say(f"unit {index} failed at {self._attempts[index]} attempts: {reason}")
        self._records.fail(index, Record(self._job.key, worker=worker, attempts=self._attempts[index], error=reason))

    def _advance(self, worker: str, rows: float) -> None:
        if rows:
            self._rows_of[worker] += rows
            self._bar.advance(rows)

    def _look(self) -> None:
        """See what has become of the units that others are at."""
        began, store = time.monotonic(), self._job.store
        done, claims = set(self._records.done()), store.list(CLAIMS)
        if self._job.begun():
            done.add(BEGIN)
            if JobFile.read(store) is None and BEGIN not in self._taken:  # others have finished the whole job
                done |= {*self._taken, *self._queue}
        for index, taken in list(self._taken.items()):
            name, token = taken.claim
            renewed = claims[name][1] if name in claims else None
            if index in done:
                self._bar.advance(self._job.rows(index) if index != BEGIN else 0)
                del self._taken[index]
            elif renewed is None or (renewed == taken.renewed and began - taken.since > self._how.lease):
                self._lost.add(token)
                self._queue.appendleft(index)
                del self._taken[index]
            elif renewed != taken.renewed:
                self._taken[index] = replace(taken, renewed=renewed, since=began)
        if gone := done.intersection(self._queue):
            self._queue = deque(index for index in self._queue if index not in gone)
            self._bar.advance(sum(self._job.rows(index) for index in gone))
        ended = time.monotonic()
        self._next_look = ended + max(min(_POLL, self._how.lease / 4), _POLL_SHARE * (ended - began))
