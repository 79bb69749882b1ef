"""Nothing is lost, doubled or changed by faults: perf/faults.py does each ten times, two kinds are tried here."""

from __future__ import annotations

import random
import runpy
from pathlib import Path

import pytest

import nbench

from ..s3_servers import S3Server

FAULTS = runpy.run_path(str(Path(nbench.__file__).parent / "perf" / "faults.py"))
RIGHT = {"units_lost": 0, "other_files": 0, "other_bytes": 0}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bucket_same_rank_killed", "bucket_put_cut"])
def test_nothing_is_lost_in_a_bucket(moto: S3Server, name: str) -> None:
    scene = dict(FAULTS["scenes"](lambda: moto))[name]
    for seed in range(2):
        assert scene(random.Random(seed)) == RIGHT


def test_every_kind_of_fault_is_there() -> None:
    assert {name for name, _ in FAULTS["scenes"](lambda: None)} == {
        *("worker_killed", "driver_killed", "two_drivers", "worker_frozen", "node_left_and_joined"),
        *("bucket_same_rank_killed", "bucket_worker_killed", "bucket_worker_frozen"),
        *(f"bucket_put_{answer}" for answer in ("500", "503", "slow", "cut", "lost")),
    }
