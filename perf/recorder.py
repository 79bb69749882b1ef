"""What recording costs: the pipeline with all positions recorded and written, beside the plain pipeline.

python perf/recorder.py [--rounds 7] [--batches 2] [--batch-size 8] [--steps 50] [--json recorder.json]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from tiny_pipelines import save_sdxl

from nbench.builders.build import build
from nbench.builders.config import BuildConfig
from nbench.builders.make import Maker
from nbench.builders.options import as_called
from nbench.builders.pipelines import load_pipeline, resolve_pipeline
from nbench.builders.plan import Plan
from nbench.builders.prompts import load_prompts
from nbench.progress import BuildProgress
from nbench.shards.dataset import read_info
from nbench.shards.formats import shard_writer

AT_MOST = 1.03


def runs(pipeline: str, place: Path, options: argparse.Namespace) -> tuple[Callable[[], None], Callable[[], None]]:
    """The plain pipeline and a build's maker, on the same batches, prompts and seeds; both decode their images."""
    rows = options.batches * options.batch_size
    config = BuildConfig(
        "ncc",
        pipeline=pipeline,
        out=place / "ncc",
        limit=rows,
        steps=options.steps,
        batch_size=options.batch_size,
        rows_per_shard=rows,
    )
    build(config, progress=False)  # warms up, and tells what the maker needs to know
    info, entry = read_info(config.folder), resolve_pipeline(pipeline, config.pipeline_options)
    plan = Plan(config, entry, load_prompts(config.prompt_request, config.kind).prompts, info.spec)
    pipe = load_pipeline(entry, info.spec["dtype"])

    def plain() -> None:
        for start in range(0, rows, options.batch_size):
            batch = range(start, start + options.batch_size)
            texts = [prompt.text for prompt in plan.of(batch)]
            generators = [torch.Generator().manual_seed(seed) for seed in plan.seeds(batch)]
            pipe(texts, generator=generators, output_type="np", **as_called(pipe, plan.arguments, len(texts)))

    def recorded() -> None:
        with (
            tempfile.TemporaryDirectory(dir=place) as folder,
            BuildProgress("ncc", rows, shown=False) as progress,
            ThreadPoolExecutor(1) as pool,
        ):
            (Path(folder) / "data").mkdir(exist_ok=True)
            maker = Maker(plan, pipe, info, options.batch_size, progress)
            maker.shard(0, shard_writer(Path(folder), info, 0), pool)

    return plain, recorded


def seconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def compare(plain: Callable[[], None], recorded: Callable[[], None], rounds: int) -> list[tuple[float, float]]:
    """Seconds of (plain, recorded), one right after the other, in turns the one first and the other."""
    found = []
    for number in range(rounds):
        order = (plain, recorded) if number % 2 == 0 else (recorded, plain)
        times = {run: seconds(run) for run in order}
        found.append((times[plain], times[recorded]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="how often both are run (7)")
    parser.add_argument("--batches", type=int, default=2, help="batches a run (2)")
    parser.add_argument("--batch-size", type=int, default=8, help="images a batch (8)")
    parser.add_argument("--steps", type=int, default=50, help="denoising steps (50)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all single measurements there too")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        sources = {"embedded world": "shapes", "tiny SDXL, 64x64 latents": str(save_sdxl(place / "sdxl", size=64))}
        for name, pipeline in sources.items():
            (place / name).mkdir()
            found[name] = compare(*runs(pipeline, place / name, options), options.rounds)
            ratios = sorted(recorded / plain for plain, recorded in found[name])
            steps = options.batches * options.batch_size * options.steps / median(plain for plain, _ in found[name])
            print(
                f"{name}: {median(ratios):.3f} times the plain pipeline ({ratios[0]:.3f}-{ratios[-1]:.3f}), "
                f"at most {AT_MOST} wanted; the plain one does {steps:,.0f} image steps a second"
            )
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
