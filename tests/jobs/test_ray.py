"""Actors of a Ray cluster make units, whatever happens to them and to their nodes."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nbench.jobs.claims import Claim
from nbench.jobs.job import BEGIN
from nbench.jobs.ray_engine import RayEngine
from nbench.jobs.run import Run, complete
from nbench.jobs.store import LocalStore
from nbench.jobs.trial import TrialJob

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of one node with two cores; its processes end with it."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    ray.init(cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def owner(store: LocalStore) -> int:
    """The process of a worker that is at a unit."""
    while True:
        for name, content in store.read_all(store.list("claims")):
            if content and not name.endswith(f"{BEGIN}.0"):
                return Claim.from_json(content).owner.pid
        time.sleep(0.005)


def check(job: TrialJob, records: dict[int, Any]) -> None:
    assert sorted(records) == list(job.units())
    assert all(job.store.read(job.name(index)) == job.content(index) for index in job.units())


def test_a_killed_actor_comes_back_and_its_unit_is_made_again(cluster: Any, tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    job = TrialJob(store, 8, seconds=0.3)
    killer = threading.Thread(target=lambda: os.kill(owner(store), signal.SIGKILL))
    killer.start()
    summary, records = complete(job, Run(RayEngine(2, 0), shown=False))
    killer.join()
    assert summary.made == 8
    assert max(record.attempts for record in records.values()) <= 2
    check(job, records)


def test_a_node_that_leaves_and_one_that_joins(cluster: Any, tmp_path: Path) -> None:
    """Three actors on nodes of two and one cores: one node is removed in the middle, another one takes its place."""
    store = LocalStore(tmp_path)
    job = TrialJob(store, 12, seconds=0.4)
    second = cluster.add_node(num_cpus=1)

    def change() -> None:
        owner(store)
        cluster.remove_node(second)
        cluster.add_node(num_cpus=1)

    changer = threading.Thread(target=change)
    changer.start()
    summary, records = complete(job, Run(RayEngine(3, 0), shown=False))
    changer.join()
    assert summary.made == 12
    check(job, records)
    assert json.dumps([record.attempts for record in records.values()]).count("3") == 0
