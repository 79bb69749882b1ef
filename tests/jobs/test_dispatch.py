"""Several jobs at once: workers are spread over them, set up as little as possible, and none stops the others."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from nbench.errors import NbenchError
from nbench.jobs.claims import Claim
from nbench.jobs.job import Context
from nbench.jobs.processes import Processes
from nbench.jobs.run import Run, complete, complete_together, run_together
from nbench.jobs.store import LocalStore
from nbench.jobs.trial import TrialJob, TrialMaker

from .in_step import SILENT, InStep


class Unopened(TrialJob):
    """A job whose models cannot be loaded."""

    def open(self, context: Context) -> TrialMaker:
        raise NbenchError("no weights")


def jobs_of(folder: Path, *counts: int, seconds: float = 0.0) -> list[TrialJob]:
    """Jobs that have begun, as those of scorers have."""
    jobs = [TrialJob(LocalStore(folder / str(i)), count, seconds, title=f"job {i}") for i, count in enumerate(counts)]
    for job in jobs:
        job.open(SILENT).begin(None)
    return jobs


def check(job: TrialJob) -> None:
    assert all(job.store.read(job.name(index)) == job.content(index) for index in job.units())


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((4, 4, 4), [[0, 0, 0, 0, 2, 2], [1, 1, 1, 1, 2, 2]]),  # the third one is shared at the end
        ((2, 6), [[1, 1, 1, 1], [0, 0, 1, 1]]),  # the larger one begins, and whoever is done helps
        ((5,), [[0, 0, 0], [0, 0]]),
        ((1, 1, 1), [[0, 2], [1]]),
    ],
)
def test_a_worker_stays_at_a_job_until_no_unit_of_it_waits(
    tmp_path: Path, counts: tuple[int, ...], expected: list[list[int]]
) -> None:
    engine, jobs = InStep((None,) * 2), jobs_of(tmp_path, *counts)
    completed = complete_together(jobs, Run(engine, shown=False))
    assert [summary.made for summary, _ in completed] == list(counts)
    assert [sorted(records) for _, records in completed] == [list(job.units()) for job in jobs]
    assert [engine.jobs[worker] for worker in ("0", "1")] == [[f"job {i}" for i in own] for own in expected]
    for job in jobs:
        check(job)


def test_more_workers_than_jobs_are_spread_evenly(tmp_path: Path) -> None:
    engine = InStep((None,) * 4)
    complete_together(jobs_of(tmp_path, 4, 4), Run(engine, shown=False))
    assert sorted(map(tuple, engine.jobs.values())) == [("job 0",) * 2] * 2 + [("job 1",) * 2] * 2


def test_a_job_that_cannot_be_opened_or_always_fails_does_not_stop_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = jobs_of(tmp_path, 3, 3)
    unopened = Unopened(LocalStore(tmp_path / "unopened"), 3, title="job 7")
    failing = TrialJob(LocalStore(tmp_path / "failing"), 3, bad=1, title="job 8")
    jobs = [unopened, good, failing, bad]
    summaries = [summary for summary, _ in complete_together(jobs, Run(InStep((None,) * 2)), "four jobs")]
    assert [summary.made for summary in summaries] == [0, 3, 2, 3]
    assert [summary.stopped for summary in summaries] == ["no weights", "", "", ""]
    assert summaries[2].failed == {1: "ValueError: unit 1 is bad"}
    with pytest.raises(NbenchError, match="no weights"):
        summaries[0].check(unopened)
    assert "job 7: no weights\n" in capsys.readouterr().err
    for job in (good, bad):
        check(job)


def test_if_no_job_can_go_on_it_ends_at_once(tmp_path: Path) -> None:
    first, second = (Unopened(LocalStore(tmp_path / name), 9, title="job 7") for name in "ab")
    failing = TrialJob(LocalStore(tmp_path / "c"), 9, bad=0, title="job 8")
    engine = InStep((None,) * 1)
    summaries = run_together([first, second, failing], Run(engine, shown=False, attempts=1))
    assert [summary.stopped for summary in summaries] == ["no weights", "no weights", "ValueError: unit 0 is bad"]
    assert engine.jobs["0"] == ["job 8"]  # the others cannot begin


def test_what_is_finished_or_damaged_is_told_from_what_is_not(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, 2, 3, 2)
    damaged = jobs[1]
    for job in jobs[:2]:
        complete(job, Run(shown=False))
    (tmp_path / "1" / damaged.name(1)).unlink()
    engine = InStep((None,) * 1)
    completed = complete_together(jobs, Run(engine, shown=False))
    assert [summary.made for summary, _ in completed] == [0, 1, 2]
    assert [len(records) for _, records in completed] == [2, 3, 2]
    assert engine.jobs["0"] == ["job 2", "job 2", "job 1"]
    check(damaged)


def test_processes_share_several_jobs_and_a_killed_one_is_replaced(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, 4, 4, 4, seconds=0.1)

    def kill() -> None:
        store = jobs[1].store
        content = None
        while content is None:
            time.sleep(0.005)
            content = next((content for _, content in store.read_all(store.list("claims"))), None)
        os.kill(Claim.from_json(content).owner.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    completed = complete_together(jobs, Run(Processes((None, None)), shown=False))
    killer.join()
    assert [summary.made for summary, _ in completed] == [4, 4, 4]
    for job in jobs:
        check(job)
