"""Jobs are made whole, by one worker or several, whatever happens to them."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from nbench.errors import NbenchError
from nbench.jobs.claims import Claim, Claims
from nbench.jobs.engine import Here
from nbench.jobs.job import BEGIN, JOB_FILE, Context, JobFile
from nbench.jobs.processes import Processes
from nbench.jobs.records import Records
from nbench.jobs.run import Run, clear, complete, run
from nbench.jobs.store import LocalStore
from nbench.jobs.trial import TrialJob
from nbench.jobs.worker import Assignment, Task, Worker

from .in_step import SILENT

QUIET = Run(shown=False, lease=1.0)


def check_whole(job: TrialJob, records: dict[int, Any]) -> None:
    """Every unit has one record and its own bytes."""
    assert sorted(records) == list(job.units())
    for index in job.units():
        assert job.store.read(job.name(index)) == job.content(index)
    clear(job.store)
    assert names(job) == {*map(job.name, job.units()), "begun.json"}


def names(job: TrialJob) -> set[str]:
    """All files in its folder."""
    root = Path(job.store.url)
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def begin(job: TrialJob) -> None:
    """What a driver does before a worker makes a unit."""
    job.store.create(JOB_FILE, JobFile(job.key, job.title, job.count, job.count, 1).to_json())


def test_one_worker_makes_each_unit_once(tmp_path: Path) -> None:
    job = TrialJob(LocalStore(tmp_path), 5)
    summary, records = complete(job, QUIET)
    assert (summary.made, summary.rows, summary.failed, summary.left) == (5, 5, {}, 0)
    assert complete(job, QUIET)[0].made == 0
    check_whole(job, records)


def test_two_processes_share_the_units(tmp_path: Path) -> None:
    job = TrialJob(LocalStore(tmp_path), 8, seconds=0.05)
    summary, records = complete(job, Run(Processes((None, None)), shown=False))
    assert summary.made == 8
    assert len({record.worker for record in records.values()}) == 2
    check_whole(job, records)


def test_a_unit_that_always_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    job = TrialJob(LocalStore(tmp_path), 4, bad=2)
    summary, records = complete(job, QUIET)
    assert (summary.made, summary.failed, summary.left, records) == (3, {2: "ValueError: unit 2 is bad"}, 1, {})
    with pytest.raises(NbenchError, match=r"1 unit failed at every attempt, the first \(unit 2\): ValueError: unit 2"):
        summary.check(job)
    again = run(job, QUIET)
    assert (again.made, again.failed) == (0, {2: "ValueError: unit 2 is bad"})
    mended = TrialJob(job.store, 4)
    summary, records = complete(mended, Run(shown=False, retry_failed=True))
    assert summary.made == 1
    check_whole(mended, records)


def test_if_nothing_works_it_stops_at_the_first_reason(tmp_path: Path) -> None:
    with pytest.raises(NbenchError, match="unit 0 is bad"):
        run(TrialJob(LocalStore(tmp_path), 4, bad=0), QUIET)
    assert not Records(LocalStore(tmp_path), "trial").done()


def test_shares_are_merged_when_all_are_there(tmp_path: Path) -> None:
    job = TrialJob(LocalStore(tmp_path), 5)
    assert run(job, Run(share=(0, 2), shown=False)).left == 2
    assert sorted(Records(job.store, job.key).done()) == [0, 2, 4]
    assert run(job, Run(share=range(1, 2), shown=False)).left == 1
    assert run(job, Run(share=range(3, 9), shown=False)).left == 0
    check_whole(job, complete(job, QUIET)[1])


def test_two_drivers_in_one_folder_make_nothing_twice(tmp_path: Path) -> None:
    job, made = TrialJob(LocalStore(tmp_path), 12, seconds=0.02), []
    drivers = [threading.Thread(target=lambda: made.append(run(job, QUIET).made)) for _ in range(3)]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join()
    assert sum(made) == 12
    check_whole(job, complete(job, QUIET)[1])


def test_another_job_in_the_same_place_is_refused_while_somebody_is_at_it(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    run(TrialJob(store, 3, bad=1), QUIET)
    claims = Claims(store, lease=0.2)
    claim, _ = claims.take(1)
    with pytest.raises(NbenchError, match=r"is writing to .*: wait for it to end"):
        run(TrialJob(store, 3, key="other"), QUIET)
    claims.release(claim, False)
    claims.close()
    assert run(TrialJob(store, 3, key="other"), QUIET).made == 3


def test_damaged_records_and_lost_files_are_made_again(tmp_path: Path) -> None:
    job = TrialJob(LocalStore(tmp_path), 4)
    run(job, QUIET)
    (tmp_path / "records/0/1.json").write_bytes(b"")
    (tmp_path / job.name(2)).unlink()
    summary, records = complete(job, QUIET)
    assert summary.made == 2
    check_whole(job, records)


def worker(job: TrialJob, lease: float = 60.0) -> Worker:
    return Worker(Assignment(job.store, job.key, job.open, lease), SILENT)


def test_what_a_dead_process_has_claimed_is_free_at_once(tmp_path: Path) -> None:
    job = TrialJob(LocalStore(tmp_path), 2)
    begin(job)
    child = os.fork()
    if child == 0:
        Claims(job.store).take(0)
        os._exit(0)
    os.waitpid(child, 0)
    assert worker(job).run(Task(0)).state == "done"
    assert job.store.list("claims") == {}


def test_a_claim_that_is_not_renewed_expires(tmp_path: Path) -> None:
    job = TrialJob(LocalStore(tmp_path), 1)
    with closing(Claims(job.store)) as frozen:
        frozen.take(0)
        outcome = worker(job).run(Task(0))
        assert outcome.state == "taken"
        assert run(job, Run(lease=0.2, shown=False)).made == 1


def test_a_frozen_worker_that_goes_on_does_no_harm(tmp_path: Path) -> None:
    """Its claim expires while it makes a unit; somebody else makes it and finishes the whole job."""
    job = TrialJob(LocalStore(tmp_path), 1, seconds=0.8)
    begin(job)
    outcomes: list[str] = []
    thawed = threading.Event()

    class Frozen(TrialJob):
        def open(self, context: Context) -> Any:
            maker = super().open(context)
            thawed.wait()
            return maker

    slow = Frozen(job.store, 1)
    claims = worker(slow, lease=1e6)  # never renews
    thread = threading.Thread(target=lambda: outcomes.append(claims.run(Task(0)).state))
    thread.start()
    while not job.store.list("claims"):
        time.sleep(0.01)
    quick = TrialJob(job.store, 1)
    summary, records = complete(quick, Run(lease=0.2, shown=False))
    assert summary.made == 1
    check_whole(quick, records)
    thawed.set()
    thread.join()
    assert outcomes == ["present"]
    assert names(job) == {"begun.json", "data/0/0"}


def killed_while(tmp_path: Path, seconds: float) -> int:
    """A driver of two processes, whose first worker is killed at once when it has a claim; the units made."""
    job = TrialJob(LocalStore(tmp_path), 6, seconds=seconds)

    def kill() -> None:
        while not (claims := [name for name in job.store.list("claims") if not name.endswith(f"{BEGIN}.0")]):
            time.sleep(0.005)
        content = job.store.read(claims[0])
        if content:
            os.kill(Claim.from_json(content).owner.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    summary, records = complete(job, Run(Processes((None, None)), shown=False))
    killer.join()
    check_whole(job, records)
    return summary.made


def test_a_worker_that_is_killed_is_replaced_and_its_unit_made_again(tmp_path: Path) -> None:
    assert killed_while(tmp_path, 0.3) == 6


def test_nothing_is_left_of_a_team(tmp_path: Path) -> None:
    job = TrialJob(LocalStore(tmp_path), 2)
    run(job, Run(Here(), shown=False))
    with Processes((None,)).team([Assignment(job.store, job.key, job.open)], lambda report: None) as team:
        process = team.seats[0].process  # type: ignore[attr-defined]  # whose end is looked at
    assert not process.is_alive()
