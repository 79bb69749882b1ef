"""The driver of one job, or of several at once over the same workers.

It makes no unit and holds no lock: workers claim and record their units. Any number of drivers may run one job.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace

from ..console import counted
from ..errors import NbenchError
from .claims import CLAIMS, LEASE, Owner, owners
from .dispatch import AllStoppedError, Dispatch, Part
from .engine import Engine, Here
from .job import BEGIN, JOB_FILE, Job, JobFile
from .records import FAILURES, RECORDS, Record, Records
from .store import ATTEMPTS as UNFINISHED
from .store import Store

ATTEMPTS = 3
_POLL = 2.0
"""Seconds between two looks at the claims of others."""


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
        stopped: why no more units were made: no unit would fare better; else "".
    """

    made: int
    rows: int
    failed: dict[int, str]
    left: int
    over: bool = False
    stopped: str = ""

    def check(self, job: Job, again: str = "the same command") -> None:
        """Refuse to go on if units have failed; `again`: what makes them once more.

        Raises:
            NbenchError: some have, or the job was stopped; the message has the first reason.
        """
        if self.stopped:
            raise NbenchError(self.stopped)
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
    return _alone(run_together([job], how))


def complete(job: Job, how: Run) -> tuple[Summary, dict[int, Record]]:
    """Run a job; if nothing is left of it, also the records of its units, without those `made_before`.

    Records and files that a power cut or somebody else has damaged are removed, and their units made again.

    Raises:
        NbenchError: as `run`.
    """
    ((summary, records),) = complete_together([job], how)
    return _alone([summary]), records


def run_together(jobs: Sequence[Job], how: Run, title: str = "") -> list[Summary]:
    """Run several jobs at once: workers are spread over them, and one that cannot go on does not stop the others.

    `title`: their name in progress, if they are more than one.

    Raises:
        NbenchError: another job is at work in a store.
    """
    closing = ExitStack()
    dispatch = Dispatch(jobs, how, jobs[0].title if len(jobs) == 1 else title, closing)
    plans = list[_Plan]()
    with suppress(AllStoppedError), closing:
        for part in dispatch.parts:
            if not part.job.begun():
                part.queue.append(BEGIN)
        dispatch.work()
        plans = [_Plan.of(part, how) for part in dispatch.parts]
        if unfinished := [part.job for part in dispatch.parts if part.queue]:
            done = sum(sum(map(plan.part.job.rows, plan.done)) for plan in plans if plan.part.queue)
            dispatch.count(sum(job.rows(index) for job in unfinished for index in job.units()), done)
            dispatch.work()
    return [plan.summary() for plan in plans or map(_Plan, dispatch.parts)]


def complete_together(jobs: Sequence[Job], how: Run, title: str = "") -> list[tuple[Summary, dict[int, Record]]]:
    """Run several jobs at once, each as `complete` does; what stops one is in its summary.

    Raises:
        NbenchError: as `run_together`.
    """
    so_far = [Summary(0, 0, {}, 0)] * len(jobs)
    records: list[dict[int, Record]] = [{} for _ in jobs]
    going = list(range(len(jobs)))
    while going:
        for number, summary in zip(going, run_together([jobs[i] for i in going], how, title), strict=True):
            before = so_far[number]
            so_far[number] = replace(summary, made=before.made + summary.made, rows=before.rows + summary.rows)
        going = [number for number in going if not _is_settled(jobs[number], how, so_far[number], records[number])]
    return list(zip(so_far, records, strict=True))


def _is_settled(job: Job, how: Run, summary: Summary, records: dict[int, Record]) -> bool:
    """Whether a job needs no further run; the records of one that is complete are added to `records`."""
    if summary.stopped or summary.over or summary.left or summary.failed or how.share is not None:
        return True
    units, of = set(job.units()) - set(job.made_before()), Records(job.store, job.key)
    sound = of.sound(units)
    if damaged := job.damaged(sound):
        job.store.remove(damaged.values())
        of.forget(damaged)
    elif len(sound) == len(units):
        records.update(sound)
        return True
    return False


def _alone(summaries: Sequence[Summary]) -> Summary:
    """The summary of the only job; what has stopped it is an error."""
    (summary,) = summaries
    if summary.stopped:
        raise NbenchError(summary.stopped)
    return summary


@dataclass(frozen=True)
class _Plan:
    """A job that has begun, or was stopped before: the units that are done, those without a record among them."""

    part: Part
    done: frozenset[int] = frozenset()
    before: frozenset[int] = frozenset()
    whole: bool = False

    @classmethod
    def of(cls, part: Part, how: Run) -> _Plan:
        """Take up the job, and queue what this driver has to make of it."""
        if part.stopped:
            return cls(part)
        job, records = part.job, part.records
        units, before = job.units(), frozenset(job.made_before())
        if before.issuperset(units):
            return cls(part, before, before, whole=True)
        _take_up(job, how.lease)
        done = before.union(records.done())
        if not how.retry_failed:
            part.failed.update({i: r.error for i, r in records.read(records.failed(), FAILURES).items()})
        part.queue.extend(index for index in how.own(units) if index not in done and index not in part.failed)
        return cls(part, done, before)

    def summary(self) -> Summary:
        """What has become of it."""
        part = self.part
        if self.whole or part.stopped:
            return Summary(part.made, part.rows, {}, 0, stopped=part.stopped)
        recorded = set(part.records.done())
        failed = {index: error for index, error in part.failed.items() if index not in recorded}
        over = JobFile.read(part.job.store) is None
        left = 0 if over else len(set(part.job.units()) - self.before - recorded)
        return Summary(part.made, part.rows, failed, left, over)


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
