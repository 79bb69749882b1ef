"""Cost of a job's own work: an empty job of many units, its status, and the data set that it would leave.

python perf/jobs.py [--units 100000]
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from nbench.jobs.run import Run, clear, complete
from nbench.jobs.status import job_status
from nbench.jobs.store import LocalStore
from nbench.jobs.trial import TrialJob
from nbench.shards.dataset import INFO_FILE, read_info
from nbench.shards.schema import ShardRecord
from nbench.tests.dataset_info import dataset_info


def timed(do: Callable[[], Any]) -> tuple[Any, float]:
    """The result, and the seconds that it took."""
    began = time.perf_counter()
    return do(), round(time.perf_counter() - began, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=100_000)
    units = parser.parse_args().units
    figures = dict[str, Any]()
    with tempfile.TemporaryDirectory() as folder:
        job = TrialJob(LocalStore(Path(folder)), units, empty=True)
        (summary, records), seconds = timed(lambda: complete(job, Run(shown=False)))
        assert summary.made == len(records) == units
        figures |= {"units": units, "seconds": seconds, "ms_per_unit": round(1000 * seconds / units, 3)}
        figures["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        figures["status_seconds"] = timed(lambda: job_status(job.store))[1]
        figures["clear_seconds"] = timed(lambda: clear(job.store))[1]
    with tempfile.TemporaryDirectory() as folder:
        info = dataset_info(n_prompts=units, candidates=1, steps=10, rows_per_shard=1, stored=(0, 10))
        shards = tuple(ShardRecord(info.shard_path(i), 1, 1000, f"{i:064x}") for i in range(units))
        content = replace(info, shards=shards).to_json()
        (Path(folder) / INFO_FILE).write_bytes(content)
        figures |= {"dataset_json_mb": len(content) // 10**6, "read_seconds": timed(lambda: read_info(Path(folder)))[1]}
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
