"""How far a job is, from its records alone."""

from __future__ import annotations

import json
import os
from contextlib import closing
from pathlib import Path

from nbench.jobs.claims import Claims
from nbench.jobs.job import JOB_FILE, JobFile
from nbench.jobs.records import Record, Records
from nbench.jobs.status import at_work, job_status
from nbench.jobs.store import LocalStore

from ..conftest import Run


def test_rate_time_left_failures_and_slow_workers(tmp_path: Path, run: Run) -> None:
    store = LocalStore(tmp_path / "scores/.clip.parts")
    store.create(JOB_FILE, JobFile("key", "scoring clip", 20, 190, 10, made_before=2).to_json())
    records = Records(store, "key")
    for index in range(12):
        worker, seconds = ("slow", 4.0) if index % 4 == 0 else (f"quick{index % 4}", 1.0)
        records.add(index, Record("key", worker=worker, seconds=seconds))
        os.utime(tmp_path / f"scores/.clip.parts/records/0/{index}.json", (0, 1000.0 + 10 * index))
    records.fail(15, Record("key", error="no memory"))
    (status,) = at_work(tmp_path)
    assert (status.title, status.units, status.done, status.failed, status.rows_done) == (
        "scoring clip",
        20,
        14,
        1,
        140,
    )
    assert status.units_per_hour == 360
    assert status.seconds_left == 50
    assert status.failures == {15: "no memory"}
    assert [(worker.name, worker.units) for worker in status.workers if worker.slow] == [("slow", 3)]
    with closing(Claims(store)) as claims:
        claim, _ = claims.take(16)
        shown = json.loads(run("status", tmp_path, "--json").out)
        assert [worker["name"] for worker in shown["jobs"][0]["workers"] if worker["at_work"]] == [claims.owner.name]
        claims.release(claim, True)
    assert "14 of 20 units, 1 failed" in run("status", tmp_path).out


def test_no_job(tmp_path: Path, run: Run) -> None:
    assert job_status(LocalStore(tmp_path)) is None
    assert run("status", tmp_path).out == f"{tmp_path}: no job is at work there\n"
