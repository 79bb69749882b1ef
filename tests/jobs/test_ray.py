"""Actors of a Ray cluster make units, whatever happens to them and to their nodes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from nbench.errors import NbenchError, check_range
from nbench.jobs.claims import Claim
from nbench.jobs.job import BEGIN
from nbench.jobs.ray_engine import RayEngine, _Remote
from nbench.jobs.run import Run, complete, run
from nbench.jobs.store import LocalStore
from nbench.jobs.trial import TrialJob
from nbench.jobs.worker import Assignment, Task

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


def test_workers_run_where_the_driver_does(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path names the same file, wherever the cluster was started."""
    import ray

    job = TrialJob(LocalStore(tmp_path), 1)

    def of_actor(engine: RayEngine) -> str:
        with engine.team([Assignment(job.store, job.key, job.open, title=job.title)], lambda report: None) as team:
            (seat,) = team._seats  # type: ignore[attr-defined]
            return str(ray.get(seat.actor.__ray_call__.remote(lambda _: Path.cwd())))

    monkeypatch.chdir(tmp_path)
    engine = RayEngine(address=cluster.address)
    assert {str(engine.call(os.getcwd)), of_actor(engine)} == {str(tmp_path)}


def test_a_working_dir_is_sent_to_the_workers(cluster: Any, tmp_path: Path) -> None:
    """A process that Ray has not seen before, as a command is."""
    (tmp_path / "model.txt").write_text("sent")
    program = f"""
from pathlib import Path
from nbench.jobs.ray_engine import RayEngine
engine = RayEngine(address={cluster.address!r}, runtime_env={{"working_dir": "."}})
print(engine.call(Path.read_text, Path("model.txt")), engine.call(Path.cwd))
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    content, folder = done.stdout.split()
    assert content == "sent"
    assert "runtime_resources" in folder  # Ray's copy


def test_what_a_worker_raises_is_its_reason(cluster: Any) -> None:
    with pytest.raises(NbenchError, match=r"^Ray cannot run a worker: invalid literal for int"):
        RayEngine(address=cluster.address).call(int, "x")


def test_what_is_made_and_fails_is_in_rays_metrics(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted where an actor hands it to Ray, which serves it only with packages of its dashboard."""
    from ray.util import metrics

    noted = defaultdict[tuple[str, str], float](float)

    def inc(self: Any, value: float = 1.0, tags: Any = None) -> None:
        noted[self.info["name"], tags["job"]] += value

    monkeypatch.setattr(metrics.Counter, "inc", inc)
    monkeypatch.setattr(metrics.Histogram, "observe", inc)
    job = TrialJob(LocalStore(tmp_path), 4, seconds=0.01, bad=2)
    run(job, Run(share=range(2), shown=False))
    job.store.remove(["records/0/0.json"])
    actor = _Remote([Assignment(job.store, job.key, job.open, title=job.title)])
    states = [outcome and outcome.state for outcome in (actor.run(Task(index))[-1].outcome for index in range(4))]
    assert states == ["done", "present", "failed", "done"]
    seconds = noted.pop(("nbench_row_seconds", "trial"))
    assert seconds >= 2 * 0.01
    assert noted.pop(("nbench_step_seconds", "trial")) == 2 * 0.01
    assert noted == {("nbench_rows", "trial"): 2, ("nbench_bytes", "trial"): 2, ("nbench_failures", "trial"): 1}


def test_the_metrics_port_of_a_node_serves_them(cluster: Any, tmp_path: Path) -> None:
    """If Ray's own packages for that are there: ray[default]."""
    import ray

    for module in ("aiohttp_cors", "opencensus", "opentelemetry.exporter.prometheus"):
        pytest.importorskip(module)
    run(TrialJob(LocalStore(tmp_path), 4, seconds=0.5, bad=2, title="served"), Run(RayEngine(1, 0), shown=False))
    node = ray.nodes()[0]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    counts = {"rows_total": 3, "bytes_total": 3, "failures_total": 3, "row_seconds_count": 3, "step_seconds_count": 3}
    served = dict[str, float]()
    deadline = time.monotonic() + 60
    while served != counts and time.monotonic() < deadline:
        time.sleep(0.5)
        with suppress(OSError):
            text = urlopen(url, timeout=5).read().decode()
            lines = [line.rpartition(" ") for line in text.splitlines() if 'job="served"' in line]
            named = {head.partition("{")[0].removeprefix("ray_nbench_"): float(value) for head, _, value in lines}
            served = {name: named[name] for name in counts if name in named}
    assert served == counts


def test_a_call_is_made_by_a_worker_of_the_cluster(cluster: Any) -> None:
    engine = RayEngine(1, 0, cluster.address)
    assert engine.call(os.getppid) != os.getpid()  # a child of Ray's, not of this process
    with pytest.raises(NbenchError, match=r"--workers -1"):
        engine.call(check_range, "--workers", -1, 0)
    assert RayEngine(1, 0).call(os.getppid) == os.getpid()


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

    with ThreadPoolExecutor() as pool:
        made = pool.submit(complete, job, Run(RayEngine(3, 0), shown=False))
        owner(store)
        cluster.remove_node(second)
        cluster.add_node(num_cpus=1)  # Ray handles signals, in the main thread alone
        summary, records = made.result()
    assert summary.made == 12
    check(job, records)
    assert json.dumps([record.attempts for record in records.values()]).count("3") == 0
