"""A worker: claims a unit, makes it, stores its files and then its record; who calls it is an engine's business."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import NbenchError, StorageError, failure_of
from .claims import LEASE, Claims
from .job import BEGIN, JOB_FILE, Context, JobError, Maker, Open, Unit
from .records import Record, Records
from .store import Store


@dataclass(frozen=True)
class Task:
    """A unit to make, of one of the jobs that a worker is assigned; `lost` as in `Claims.take`."""

    index: int
    payload: Any = None
    attempt: int = 1
    lost: frozenset[str] = frozenset()
    job: int = 0


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Attributes:
        state: done; present: somebody else has finished it; taken: somebody else is at it; failed: may be tried again;
            fatal: no other unit would fare better.
        error: the reason of a failure.
        bytes: size of the unit's file, where it has one.
        claim: name and token of the claim of whoever has taken it.
    """

    index: int
    state: Literal["done", "present", "taken", "failed", "fatal"]
    error: str = ""
    bytes: int = 0
    claim: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Assignment:
    """What a worker needs to know about its job; picklable."""

    store: Store
    key: str
    open: Open
    lease: float = LEASE
    title: str = ""


class Worker:
    """Makes units of one job, one at a time. The job is opened with the first of them."""

    def __init__(self, assignment: Assignment, context: Context) -> None:
        self._assignment, self._context = assignment, context
        self._store = assignment.store
        self._records = Records(self._store, assignment.key)
        self._claims = Claims(self._store, assignment.lease)
        self._maker: Maker | None = None

    @property
    def name(self) -> str:
        """Its name in claims and records."""
        return self._claims.owner.name

    def close(self) -> None:
        """Let go of the job."""
        self._claims.close()
        if self._maker is not None:
            self._maker.close()

    def run(self, task: Task) -> Outcome:
        """Make a unit unless somebody else has made it or is at it."""
        try:
            return self._claimed(task)
        except StorageError as error:
            return Outcome(task.index, "fatal", str(error))

    def _claimed(self, task: Task) -> Outcome:
        claim, is_mine = self._claims.take(task.index, task.lost)
        if not is_mine:
            return Outcome(task.index, "taken", claim=(claim.name, claim.token))
        finished = False
        try:
            if self._is_over(task.index):
                finished = True
                return Outcome(task.index, "present")
            outcome = self._tried(task)
            finished = outcome.state in ("done", "present")
            return outcome
        finally:
            self._claims.release(claim, finished)

    def _is_over(self, index: int) -> bool:
        """Whether a unit needs no making: it has a record, or the whole job is finished and its file removed."""
        return index != BEGIN and (self._records.has(index) or self._store.read(JOB_FILE) is None)

    def _tried(self, task: Task) -> Outcome:
        try:
            if self._maker is None:
                self._maker = self._assignment.open(self._context)
        except NbenchError as error:
            return Outcome(task.index, "fatal", str(error))
        try:
            return self._made(task, self._maker)
        except StorageError:
            raise
        except NbenchError as error:
            hopeless = task.index == BEGIN or isinstance(error, JobError)
            return Outcome(task.index, "fatal" if hopeless else "failed", str(error))
        except Exception as error:  # makers run models and code of users
            return Outcome(task.index, "failed", failure_of(error))

    def _made(self, task: Task, maker: Maker) -> Outcome:
        index, began = task.index, time.monotonic()
        if index == BEGIN:
            maker.begin(task.payload)
            return Outcome(index, "done")
        with self._store.attempt(index) as folder:
            unit = maker.make(index, task.payload, folder)
            result = self._put(unit)
        seconds = round(time.monotonic() - began, 3)
        record = Record(self._assignment.key, result, self.name, seconds, task.attempt)
        is_first = self._records.add(index, record)
        if self._store.read(JOB_FILE) is None:  # the job was finished meanwhile by those who took this worker for dead
            self._records.forget([index])
            return Outcome(index, "present")
        return Outcome(index, "done" if is_first else "present", bytes=int(result.get("bytes", 0)))

    def _put(self, unit: Unit) -> dict[str, Any]:
        """Store the files; the result, with size and hash of the file that is there now."""
        result = unit.result
        for name, (path, sha256) in unit.files.items():
            size, there = self._store.put(name, path, sha256)
            if there != sha256:
                result = result | {"bytes": size, "sha256": there}
        return result


class Shift:
    """A worker at several jobs, of which it has one open: before the first unit of another one it closes that."""

    def __init__(self, assignments: Sequence[Assignment], context: Context) -> None:
        self._assignments, self._context = assignments, context
        self._job, self._worker = 0, Worker(assignments[0], context)

    @property
    def name(self) -> str:
        """Its name in claims and records of all jobs."""
        return self._worker.name

    def run(self, task: Task) -> Outcome:
        """As `Worker.run`."""
        if task.job != self._job:
            self._worker.close()
            self._job, self._worker = task.job, Worker(self._assignments[task.job], self._context)
        return self._worker.run(task)

    def close(self) -> None:
        """Let go of the job that is open."""
        self._worker.close()
