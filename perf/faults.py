"""Faults at random moments: units lost or made twice, and bytes that differ, of jobs that are disturbed.

python perf/faults.py [--times 10] [--seed 0] [--only NAME ...]

The job is one of small files; whatever happens, the same driver or the next must end with each unit recorded once and
with its own bytes. Those in a bucket run against a local S3 server behind a proxy that injects faults; the Ray cluster
is on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import lru_cache, partial

from nbench.jobs.claims import Claim
from nbench.jobs.job import BEGIN
from nbench.jobs.places import store_at
from nbench.jobs.ray_engine import RayEngine
from nbench.jobs.records import Records
from nbench.jobs.run import Run, complete
from nbench.jobs.store import Store
from nbench.jobs.trial import TrialJob
from nbench.tests.fault_proxy import Fault, FaultProxy
from nbench.tests.s3_servers import S3Server, s3_folder, seaweed_server

UNITS, SECONDS, LEASE = 24, 0.05, 1.0
DRIVER = f"""
import sys
from nbench.jobs.places import store_at
from nbench.jobs.processes import Processes
from nbench.jobs.run import Run, complete, run
from nbench.jobs.trial import TrialJob
if __name__ == "__main__":
    job = TrialJob(store_at(sys.argv[1]), {UNITS}, {SECONDS})
    if sys.argv[2] == "workers":
        complete(job, Run(Processes((None, None)), shown=False, lease={LEASE}))
    else:
        run(job, Run(share=(0, 1), shown=False, lease={LEASE}))
"""


def driver(place: str, kind: str = "workers") -> subprocess.Popen[bytes]:
    """A driver with two workers, or a process with a rank."""
    return subprocess.Popen([sys.executable, "-c", DRIVER, place, kind])


def claimed_by(store: Store) -> int | None:
    """The process of a worker that is at a unit; None if nobody is."""
    for name, content in store.read_all(store.list("claims")):
        if content and not name.endswith(f"{BEGIN}.0"):
            return Claim.from_json(content).owner.pid
    return None


def disturb(place: str, rng: random.Random, process: subprocess.Popen[bytes], do: Callable[[int], None]) -> None:
    """Disturb a worker at a random moment of its work."""
    store = store_at(place)
    while not store.list("records") and process.poll() is None:
        time.sleep(0.005)
    time.sleep(rng.uniform(0, SECONDS * UNITS / 3))
    if (pid := claimed_by(store)) is not None:
        do(pid)


def worker_killed(place: str, rng: random.Random) -> None:
    """A worker is killed while it makes, stores or records a unit."""
    with driver(place) as process:
        disturb(place, rng, process, lambda pid: os.kill(pid, signal.SIGKILL))
        process.wait()


def driver_killed(place: str, rng: random.Random) -> None:
    """The driver is killed, and the same command starts again at once, while its workers may still be there."""
    with driver(place) as process:
        disturb(place, rng, process, lambda pid: process.kill())
        process.wait()
    with driver(place) as process:
        process.wait()


def two_drivers(place: str, rng: random.Random) -> None:
    """Two processes are given the same work."""
    with driver(place) as first:
        time.sleep(rng.uniform(0, 1))
        with driver(place) as second:
            assert (first.wait(), second.wait()) == (0, 0)


def worker_frozen(place: str, rng: random.Random) -> None:
    """A worker is stopped for longer than its lease, then continued."""

    def freeze(pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(2.5 * LEASE)
        os.kill(pid, signal.SIGCONT)

    with driver(place) as process:
        disturb(place, rng, process, freeze)
        process.wait()


def same_rank_killed(place: str, rng: random.Random) -> None:
    """Two processes are given the same rank; one of them is killed, and started again."""
    with driver(place, "rank") as first, driver(place, "rank") as second:
        victim = rng.choice((first, second))
        disturb(place, rng, victim, lambda pid: victim.kill())
        victim.wait()
        with driver(place, "rank") as again:
            again.wait()


def node_left_and_joined(place: str, rng: random.Random) -> None:
    """The second node of a Ray cluster leaves in the middle of a unit, and another one joins."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        ray.init(cluster.address, log_to_driver=False)
        second = cluster.add_node(num_cpus=1)
        job = TrialJob(store_at(place), UNITS, SECONDS * 4)
        worker = threading.Thread(target=complete, args=(job, Run(RayEngine(2, 0), shown=False, lease=LEASE)))
        worker.start()
        while claimed_by(job.store) is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, SECONDS * UNITS))
        cluster.remove_node(second)
        time.sleep(rng.uniform(0, 1))
        cluster.add_node(num_cpus=1)
        worker.join()
    finally:
        ray.shutdown()
        cluster.shutdown()


def put_disturbed(answer: str, status: int, place: str, rng: random.Random, proxy: FaultProxy) -> None:
    """The store answers so in the middle of a few puts of files, records and claims."""
    for name in ("data", "records", "claims"):
        skipped, times = rng.randrange(UNITS - 3), rng.randint(1, 3)
        proxy.faults.append(Fault(f"PUT .*/{name}/", answer, status, times=times, skip=skipped))  # type: ignore[arg-type]
    complete(TrialJob(store_at(place), UNITS), Run(shown=False, lease=LEASE))


IN_FOLDERS = (worker_killed, driver_killed, two_drivers, worker_frozen, node_left_and_joined)
IN_BUCKETS = (same_rank_killed, worker_killed, worker_frozen)
ANSWERS = {"500": ("status", 500), "503": ("status", 503), "slow": ("slow", 0), "cut": ("cut", 0), "lost": ("lost", 0)}
Scene = Callable[[random.Random], dict[str, int]]
"""A fault and its consequences."""


def scenes(server: Callable[[], S3Server]) -> Iterator[tuple[str, Scene]]:
    """All faults by name; `server` starts the S3 server, or gives the one that is there."""

    def in_folder(fault: Callable[..., None], rng: random.Random) -> dict[str, int]:
        with tempfile.TemporaryDirectory() as folder:
            fault(folder, rng)
            return wrong(folder)

    def in_bucket(fault: Callable[..., None], rng: random.Random) -> dict[str, int]:
        with s3_folder(server()) as folder:
            fault(folder.url, rng)
            return wrong(folder.url)

    def answered(answer: tuple[str, int], rng: random.Random) -> dict[str, int]:
        with s3_folder(server()) as folder:
            put_disturbed(*answer, folder.url, rng, folder.proxy)
            return wrong(folder.url)

    yield from ((fault.__name__, partial(in_folder, fault)) for fault in IN_FOLDERS)
    yield from ((f"bucket_{fault.__name__}", partial(in_bucket, fault)) for fault in IN_BUCKETS)
    yield from ((f"bucket_put_{name}", partial(answered, answer)) for name, answer in ANSWERS.items())


def wrong(place: str) -> dict[str, int]:
    """What is wrong after a fault: before, and after the same work is asked for once more."""
    job = TrialJob(store_at(place), UNITS, SECONDS)
    lost = UNITS - len(Records(job.store, job.key).sound(range(UNITS)))
    complete(job, Run(shown=False, lease=LEASE))
    files = {name for name in job.store.list("") if name.startswith(("data/", "records/"))}
    expected = {name for i in range(UNITS) for name in (job.name(i), f"records/0/{i}.json")}
    other = sum(job.store.read(job.name(i)) != job.content(i) for i in range(UNITS))
    return {"units_lost": lost, "other_files": len(files ^ expected), "other_bytes": other}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", help="faults by the names that are printed")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with ExitStack() as stack:
        start = lru_cache(lambda: stack.enter_context(seaweed_server()))
        for name, scene in scenes(start):
            if options.only and name not in options.only:
                continue
            began, totals = time.perf_counter(), Counter[str]()
            for _ in range(options.times):
                totals.update(scene(rng))
            seconds = round(time.perf_counter() - began)
            print(name, json.dumps({"times": options.times, **totals, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
