"""Faults at random moments: units lost and made twice, and bytes that differ, of jobs that are disturbed.

python perf/faults.py [--times 10] [--seed 0]

The job is one of empty units, in two worker processes; whatever happens, the same driver or the next must end with each
unit recorded once and with its own bytes.
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
import time
from collections.abc import Callable
from pathlib import Path

from nbench.jobs.claims import Claim
from nbench.jobs.records import Records
from nbench.jobs.run import Run, complete
from nbench.jobs.store import LocalStore
from nbench.jobs.trial import TrialJob

UNITS, SECONDS, LEASE = 24, 0.05, 1.0
DRIVER = f"""
import sys
from pathlib import Path
from nbench.jobs.processes import Processes
from nbench.jobs.run import Run, complete
from nbench.jobs.store import LocalStore
from nbench.jobs.trial import TrialJob
if __name__ == "__main__":
    job = TrialJob(LocalStore(Path(sys.argv[1])), {UNITS}, {SECONDS})
    complete(job, Run(Processes((None, None)), shown=False, lease={LEASE}))
"""


def driver(folder: Path) -> subprocess.Popen[bytes]:
    """A driver with two workers."""
    return subprocess.Popen([sys.executable, "-c", DRIVER, str(folder)])


def claimed_by(store: LocalStore) -> int | None:
    """The process of a worker that has a claim; None if nobody has."""
    for _, content in store.read_all(store.list("claims")):
        if content:
            return Claim.from_json(content).owner.pid
    return None


def worker_killed(folder: Path, rng: random.Random) -> None:
    """A worker is killed while it makes, stores or records a unit."""
    with driver(folder) as process:
        disturb(folder, rng, process, lambda pid: os.kill(pid, signal.SIGKILL))
        process.wait()


def driver_killed(folder: Path, rng: random.Random) -> None:
    """The driver is killed, and the same command starts again at once, while its workers may still be there."""
    with driver(folder) as process:
        disturb(folder, rng, process, lambda pid: process.kill())
        process.wait()
    with driver(folder) as process:
        process.wait()


def two_drivers(folder: Path, rng: random.Random) -> None:
    """Two processes are given the same work."""
    with driver(folder) as first:
        time.sleep(rng.uniform(0, 1))
        with driver(folder) as second:
            assert (first.wait(), second.wait()) == (0, 0)


def worker_frozen(folder: Path, rng: random.Random) -> None:
    """A worker is stopped for longer than its lease, then continued."""

    def freeze(pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(2.5 * LEASE)
        os.kill(pid, signal.SIGCONT)

    with driver(folder) as process:
        disturb(folder, rng, process, freeze)
        process.wait()


def disturb(folder: Path, rng: random.Random, process: subprocess.Popen[bytes], do: Callable[[int], None]) -> None:
    """Disturb a worker at a random moment of its work."""
    store = LocalStore(folder)
    while not store.list("records") and process.poll() is None:
        time.sleep(0.005)
    time.sleep(rng.uniform(0, SECONDS * UNITS / 3))
    if (pid := claimed_by(store)) is not None:
        do(pid)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, figures = random.Random(options.seed), {}
    for fault in (worker_killed, driver_killed, two_drivers, worker_frozen):
        lost = other_bytes = 0
        for _ in range(options.times):
            with tempfile.TemporaryDirectory() as folder:
                job = TrialJob(LocalStore(Path(folder)), UNITS, SECONDS)
                fault(Path(folder), rng)
                lost += UNITS - len(Records(job.store, job.key).sound(range(UNITS)))
                complete(job, Run(shown=False, lease=LEASE))
                other_bytes += sum(job.store.read(job.name(i)) != job.content(i) for i in range(UNITS))
        figures[fault.__name__] = {"times": options.times, "units_lost": lost, "other_bytes": other_bytes}
        print(fault.__name__, json.dumps(figures[fault.__name__]), flush=True)


if __name__ == "__main__":
    main()
