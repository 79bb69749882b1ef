"""The cost of recording: a pipeline that records and writes all positions, beside the plain pipeline.

Both generate the same few images, one right after the other, many times: the median over many short pairs is robust to
other load on the machine. Also shown: the share of a recorded run spent in recorder and writer, part of which overlaps
with the next batch. On a GPU the recorder's last step waits for all pending work, so there the shares mean nothing.

python perf/recorder.py [--only world|sdxl] [--seconds S] [--batches 2] [--batch-size N] [--steps 50] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from math import comb
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch

from nbench.builders.build import build
from nbench.builders.config import BuildConfig
from nbench.builders.process.reverse import Reverse
from nbench.builders.shard_maker import Maker
from nbench.pipelines.options import as_called
from nbench.pipelines.quiet import quieten_diffusers
from nbench.pipelines.recorder import Recorder
from nbench.progress import BuildProgress
from nbench.shards.dataset import read_info
from nbench.shards.formats import shard_writer
from nbench.shards.writer import ShardWriter
from nbench.tests.tiny_pipelines import save_sdxl

AT_MOST = 1.03
PIPELINES = {"world": ("embedded world", 8, 60.0), "sdxl": ("tiny SDXL, 64x64 latents", 2, 120.0)}
"""By name: its label, images per batch, and default seconds for its pairs of runs."""
FEWEST = 6
"""Pairs of runs; fewer give no interval."""
PARTS = {(Recorder, "_before"): "recorder", (Recorder, "_after"): "recorder"} | {
    (Maker, "_take"): "writer",
    (ShardWriter, "commit"): "writer",
}


@dataclass(frozen=True)
class Pair:
    """Seconds of a plain and of a recorded run, and the seconds of the latter in recorder and writer."""

    plain: float
    recorded: float
    recorder: float
    writer: float


def runs(pipeline: str, place: Path, options: argparse.Namespace, batch_size: int) -> list[Callable[[], None]]:
    """The plain pipeline and the maker of a build, on the same batches, prompts and seeds; both decode images."""
    rows = options.batches * batch_size
    config = BuildConfig(
        "ncc",
        pipeline=pipeline,
        out=place / "ncc",
        limit=rows,
        steps=options.steps,
        batch_size=batch_size,
        rows_per_shard=rows,
    )
    build(config, progress=False)  # warms up, and writes the info that the maker needs
    info, process = read_info(config.folder), Reverse(config)
    plan = process.plan(process.choose())
    loaded = process.load(plan)

    def plain() -> None:
        for start in range(0, rows, batch_size):
            batch = plan.candidates([(number, 0) for number in range(start, start + batch_size)])
            generators = [torch.Generator().manual_seed(seed) for seed in batch.seeds]
            called = as_called(loaded.pipe, loaded.arguments, batch_size)
            loaded.pipe(list(batch.prompts), generator=generators, output_type="np", **called)

    def recorded() -> None:
        with (
            tempfile.TemporaryDirectory(dir=place) as folder,
            BuildProgress("ncc", rows, shown=False) as progress,
            ThreadPoolExecutor(1) as pool,
        ):
            maker = Maker(plan, loaded, info, batch_size, progress)
            maker.shard(0, shard_writer(Path(folder), info, 0), pool)

    return [plain, recorded]


@contextmanager
def accounted() -> Iterator[Counter[str]]:
    """Count the seconds inside recorder and writer, which are patched meanwhile."""
    spent = Counter[str]()

    def timed(original: Callable[..., Any], part: str) -> Callable[..., Any]:
        def method(*arguments: Any) -> Any:
            began = time.perf_counter()
            try:
                return original(*arguments)
            finally:
                spent[part] += time.perf_counter() - began

        return method

    with ExitStack() as patched:
        for (owner, name), part in PARTS.items():
            patched.enter_context(patch.object(owner, name, timed(getattr(owner, name), part)))
        yield spent


def compare(plain: Callable[[], None], recorded: Callable[[], None], seconds: float) -> list[Pair]:
    """As many pairs of runs as fit in `seconds`, in alternating order."""
    pairs, until = list[Pair](), time.monotonic() + seconds
    with accounted() as spent:
        while len(pairs) < FEWEST or time.monotonic() < until:
            spent.clear()
            times = {}
            for run in (plain, recorded) if len(pairs) % 2 else (recorded, plain):
                start = time.perf_counter()
                run()
                times[run] = time.perf_counter() - start
            pairs.append(Pair(times[plain], times[recorded], spent["recorder"], spent["writer"]))
    return pairs


def median_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Two of `values` between which the median lies with probability `level` or more, whatever the distribution.

    The number of values below the median is binomial, so order statistics give the interval; it takes six values.
    """
    ordered, n = sorted(values), len(values)
    inside = [k for k in range(n // 2) if 2 * sum(comb(n, i) for i in range(k + 1)) <= (1 - level) * 2**n]
    return ordered[inside[-1]], ordered[n - 1 - inside[-1]]


def summary(pairs: Sequence[Pair], images: int, steps: int) -> str:
    """The figures of a pipeline in one sentence."""
    ratios = [pair.recorded / pair.plain for pair in pairs]
    low, high = median_interval(ratios)
    recorder, writer = (
        100 * median(getattr(pair, part) / pair.recorded for pair in pairs) for part in ("recorder", "writer")
    )
    rate = images * steps / median(pair.plain for pair in pairs)
    return (
        f"{median(ratios):.3f} times the plain pipeline (95 % interval {low:.3f} to {high:.3f}, {len(pairs)} pairs of "
        f"{images} images), target: at most {AT_MOST}\n  of a recorded run {recorder:.1f} % in the recorder, "
        f"{writer:.1f} % encoding and writing; the plain one does {rate:,.0f} image steps a second"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PIPELINES, help="one of the two pipelines")
    parser.add_argument("--seconds", type=float, help=f"for each (60 and 120), or {FEWEST} pairs if those take longer")
    parser.add_argument("--batches", type=int, default=2, help="batches per run (2)")
    parser.add_argument("--batch-size", type=int, help="images per batch (8 and 2)")
    parser.add_argument("--steps", type=int, default=50, help="denoising steps (50)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all single measurements there too")
    options = parser.parse_args()
    quieten_diffusers()
    measurements: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in [options.only] if options.only else PIPELINES:
            place, (label, batch_size, seconds) = Path(folder) / name, PIPELINES[name]
            size = options.batch_size or batch_size
            place.mkdir()
            pipeline = "shapes" if name == "world" else str(save_sdxl(place / "tiny", size=64))
            pairs = compare(*runs(pipeline, place, options, size), options.seconds or seconds)
            print(f"{label}: {summary(pairs, options.batches * size, options.steps)}", flush=True)
            measurements[name] = [asdict(pair) for pair in pairs]
    if options.json:
        options.json.write_text(json.dumps(measurements, indent=1) + "\n")


if __name__ == "__main__":
    main()
