"""Rate of two workers of one thread each against one, in processes and on Ray, building and evaluating.

python perf/engines.py [--runs 5] [--prompts 60] [--bench-prompts 200] [--json engines.json]

Runs alternate, and the median of their ratios counts; bytes and scores must be equal. It needs two idle cores.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

ENGINES = {"one": [], "local": ["--workers", "2"], "ray": ["--engine", "ray", "--workers", "2"]}


def nbench(*arguments: object) -> float:
    """Run a command with one thread per process; the seconds between its first and last unit, as its lines tell."""
    command = [sys.executable, "-c", "from nbench.cli import main; main()", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as run:
        assert run.stderr is not None
        moments, lines = list[tuple[float, int]](), list[str]()
        for line in run.stderr:
            lines.append(line)
            if match := re.match(r".*: (\d+)/\d+, ", line):
                moments.append((time.perf_counter(), int(match[1])))
    if run.returncode:
        sys.exit("".join(lines))
    (began, first), (ended, last) = moments[0], moments[-1]
    return (last - first) / (ended - began)


def content(folder: Path) -> dict[str, bytes]:
    """The bytes of all tables and shards below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.parquet")}


def compared(work: Path, kind: str, runs: int, arguments: list[object]) -> dict[str, Any]:
    """The rate of each engine, and its median ratio to one worker."""
    rates: dict[str, list[float]] = {name: [] for name in ENGINES}
    for _ in range(runs):
        for name, options in ENGINES.items():
            out = work / f"{kind}-{name}"
            shutil.rmtree(out, ignore_errors=True)
            rates[name].append(nbench(*arguments, "--out", out, *options))
            assert content(out) == content(work / f"{kind}-one"), f"{kind} on {name} has other bytes"
    ratios = {name: round(median(b / a for a, b in zip(rates["one"], rates[name], strict=True)), 2) for name in ENGINES}
    return {"rows_per_second": {name: round(median(of), 2) for name, of in rates.items()}, "ratio": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=60)
    parser.add_argument("--bench-prompts", type=int, default=200)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        build = ["build", "genai-bench", "--limit", options.prompts, "--rows-per-shard", 12, "--references", ""]
        figures = {"building": compared(work, "build", options.runs, build)}
        bench = work / "bench"
        nbench("build", "genai-bench", "--limit", options.bench_prompts, "--rows-per-shard", 36, "--out", bench)
        evaluate = ["evaluate", "--model", "clip", "--bench", bench, "--latents", "0:50:2"]
        figures["evaluating"] = compared(work, "evaluate", options.runs, evaluate)
    print(json.dumps(figures, indent=1))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
