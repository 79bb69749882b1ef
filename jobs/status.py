"""How far a job is, told from what its store holds, on any machine."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from ..options import Place
from .claims import CLAIMS, owners
from .job import JobFile
from .places import beneath, store_at
from .records import FAILURES, Record, Records
from .store import Store

_RECENT, _READ = 500, 1000
"""Records that tell the present rate, and the number of records that are read for the speed of workers."""
_SLOW = 1.5
"""A worker is slow if its units take this many times the median of all workers."""


@dataclass(frozen=True)
class WorkerStatus:
    """A worker: its recent units, the median of their seconds, and whether it is slow or has a claim now."""

    name: str
    units: int
    seconds: float
    slow: bool
    at_work: bool


@dataclass(frozen=True)
class Status:
    """A job at work.

    Attributes:
        units, done, failed: numbers of units.
        rows, rows_done: numbers of rows, as far as units tell.
        units_per_hour: recently; None if too few units are done.
        seconds_left: at this rate; None if unknown.
        failures: reasons by unit.
    """

    place: str
    title: str
    units: int
    done: int
    failed: int
    rows: int
    rows_done: int
    units_per_hour: float | None
    seconds_left: float | None
    workers: tuple[WorkerStatus, ...]
    failures: Mapping[int, str]


def job_status(store: Store) -> Status | None:
    """The status of the job at work in a store; None if there is none.

    Two listings, and no more than a thousand records are read, however many there are.
    """
    job = JobFile.read(store)
    if job is None:
        return None
    records = Records(store, job.key)
    done = records.done()
    failures = {i: record.error for i, record in records.read(records.failed(), FAILURES).items() if i not in done}
    newest = sorted(done, key=lambda index: done[index])[-_READ:]
    changed = [changed for _, changed in store.list(CLAIMS).values()]
    rate = _rate(sorted(done.values())[-_RECENT:], max(changed, default=0.0))
    n_done = job.made_before + len(done)
    left = job.units - n_done - len(failures)
    return Status(
        store.url,
        job.title,
        job.units,
        n_done,
        len(failures),
        job.rows,
        min(job.rows, n_done * job.rows_per_unit),
        rate and rate * 3600,
        left / rate if rate else None,
        _workers(records.read(newest), {owner.name for owner in owners(store)}),
        failures,
    )


def at_work(place: Place) -> list[Status]:
    """The jobs at work at a place and in its hidden folders, where score tables and checks are made."""
    store = store_at(place)
    folders = [name for below in ("", "scores") for name in store.folders(below) if _is_hidden(name)]
    stores = [store, *(store_at(beneath(place, name)) for name in folders)]
    return [status for store in stores if (status := job_status(store)) is not None]


def _is_hidden(folder: str) -> bool:
    return folder.rpartition("/")[2].startswith(".")


def _rate(times: list[float], last_sign: float) -> float | None:
    """Units per second: of the units finished at `times`, until the last sign of life."""
    if len(times) < 2:
        return None
    return (len(times) - 1) / max(max(times[-1], min(last_sign, time.time())) - times[0], 1e-9)


def _workers(records: Mapping[int, Record], at_work: set[str]) -> tuple[WorkerStatus, ...]:
    seconds = defaultdict[str, list[float]](list)
    for record in records.values():
        seconds[record.worker].append(record.seconds)
    medians = {name: median(of) for name, of in seconds.items()}
    usual = median(medians.values()) if medians else 0.0
    return tuple(
        WorkerStatus(name, len(seconds[name]), medians.get(name, 0.0), medians.get(name, 0.0) > _SLOW * usual, active)
        for name in sorted(at_work | medians.keys())
        for active in [name in at_work]
    )
