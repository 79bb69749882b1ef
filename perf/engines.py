"""Rate of two workers of one thread each against one, in processes and on Ray, building and evaluating.

python perf/engines.py [--runs 5] [--seconds 8] [--prompts 16] [--json engines.json]

Workers stay: what it takes to start them and to load models is told apart. Runs alternate, each of as many shards, of a
prompt each, as one worker makes in so many seconds, and the median of their ratios counts; bytes must be equal. It
needs two idle cores.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

# before torch is imported, here and in workers; Ray's have the priority of others
os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "RAY_worker_niceness": "0"}

from nbench.benchmarks.scoring.options import ScoreOptions
from nbench.benchmarks.scoring.parts import Parts
from nbench.benchmarks.scoring.score_job import OpenScorer, ScoreJob
from nbench.builders.build import build
from nbench.builders.config import BuildConfig
from nbench.builders.process import process_of
from nbench.builders.shard_job import ShardJob
from nbench.jobs.engine import Engine, Report, Team
from nbench.jobs.job import BEGIN, JOB_FILE, Job, JobFile
from nbench.jobs.processes import Processes
from nbench.jobs.ray_engine import RayEngine
from nbench.jobs.records import Records
from nbench.jobs.store import LocalStore
from nbench.jobs.worker import Assignment, Task
from nbench.scorers.registry import get_scorer
from nbench.shards.reader import open_bench

POSITIONS = range(0, 51, 2)
CONFIG = BuildConfig("genai-bench", candidates=6, rows_per_shard=6, references=())
ENGINES: dict[str, Engine] = {
    "one": Processes((None,)),
    "local": Processes((None, None)),
    "ray": RayEngine(workers=2, gpus=0),
}


@dataclass
class Warm:
    """A team that stays at a job, whose units it makes again and again."""

    engine: Engine
    job: Job
    stack: ExitStack
    _done: list[Report] = field(default_factory=list)

    def __post_init__(self) -> None:
        job = self.job
        job.store.create(JOB_FILE, JobFile(job.key, job.title, 0, 0, 0).to_json())
        self._team: Team = self.stack.enter_context(
            self.engine.team([Assignment(job.store, job.key, job.open)], self._hear)
        )

    def begin(self, workers: int) -> None:
        """Let every worker load its models, with a unit for each."""
        if not self.job.begun():
            self._make([BEGIN])
        while len(self._team.idle()) < workers:
            self._team.wait(0.1)
        self.make(list(self.job.units())[:workers])

    def make(self, indices: Sequence[int]) -> float:
        """Make units, as for the first time; seconds that it took."""
        Records(self.job.store, self.job.key).forget(indices)
        self.job.store.remove([name for name in self.job.store.list("") if name.endswith(".parquet")])
        began = time.perf_counter()
        self._make(indices)
        return time.perf_counter() - began

    def _make(self, indices: Sequence[int]) -> None:
        self._done.clear()
        queue = list(indices)
        while len(self._done) < len(indices):
            for worker in self._team.idle():
                if queue:
                    self._team.give(worker, Task(queue[0], self.job.payload(queue.pop(0))))
            self._team.wait(0.5)
        assert all(report.outcome and report.outcome.state == "done" for report in self._done), self._done

    def _hear(self, report: Report) -> None:
        if report.outcome is not None or report.death:
            self._done.append(report)


def build_job(config: BuildConfig, folder: Path) -> ShardJob:
    """A build in `folder`."""
    process = process_of(config)
    return ShardJob(process.plan(process.choose()), process, LocalStore(folder), None, False, check=False)


def score_job(bench_path: Path, folder: Path) -> ScoreJob:
    """The scores of CLIP in `folder`."""
    bench = open_bench(bench_path)
    model = "clip"
    fingerprint = get_scorer(model, bench.info, load=False).fingerprint
    of = OpenScorer(bench_path, model, fingerprint, False, POSITIONS, ScoreOptions(ahead=1), {"of": model}, False)
    return ScoreJob(Parts.of(folder), "scoring", bench, range(len(bench.info.shards)), of)


def content(folder: Path) -> dict[str, bytes]:
    """The bytes of all tables and shards below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.parquet")}


def compared(work: Path, kind: str, jobs: dict[str, Job], runs: int, seconds: float) -> dict[str, Any]:
    """The rate of each engine in rows per second, and its median ratio to one worker."""
    with ExitStack() as stack:
        warm = {name: Warm(engine, jobs[name], stack) for name, engine in ENGINES.items()}
        began = time.perf_counter()
        for name, team in warm.items():
            team.begin(1 if name == "one" else 2)
        setup = time.perf_counter() - began
        units = list(jobs["one"].units())
        a_unit = warm["one"].make(units[:2]) / 2
        units = units[: 2 * max(2, round(seconds / a_unit / 2))]
        rows, rates = sum(map(jobs["one"].rows, units)), {name: list[float]() for name in ENGINES}
        for _ in range(runs):
            for name, team in warm.items():
                rates[name].append(rows / team.make(units))
                assert content(work / f"{kind}-{name}") == content(work / f"{kind}-one"), (
                    f"{kind}: other bytes on {name}"
                )
    ratios = {
        name: round(median(b / a for a, b in zip(rates["one"], of, strict=True)), 2) for name, of in rates.items()
    }
    per_second = {name: round(median(of), 2) for name, of in rates.items()}
    return {"units": len(units), "setup_seconds": round(setup, 1), "rows_per_second": per_second, "ratio": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="of a run by one worker")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work, figures = Path(folder), dict[str, Any]()
        bench = work / "bench"
        config = replace(CONFIG, limit=options.prompts, out=bench)
        build(config, progress=False)
        for kind in ("building", "evaluating"):
            places = {name: work / f"{kind}-{name}" for name in ENGINES}
            jobs: dict[str, Job] = {
                name: build_job(config, place) if kind == "building" else score_job(bench, place)
                for name, place in places.items()
            }
            figures[kind] = compared(work, kind, jobs, options.runs, options.seconds)
            print(kind, json.dumps(figures[kind]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
