"""`make world`: trains every model of the embedded world from nothing, measures them, writes weights, logs and card.

Finished stages are skipped, so an interrupted run resumes where it stopped.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from ...benchmarks.build import build
from ...builders.config import BuildConfig
from ...training.config import LatentCLIPConfig, TrainConfig
from ...training.noisyclip import train as train_noisyclip
from . import clip, denoiser, unet, vae, vqa
from .card import write_card
from .figures import answers, second_generator, shortfalls, timeline

WEIGHTS = Path(__file__).parents[1] / "weights"
NCC_PROMPTS = 4000
BENCH_PROMPTS = 200
SCENES, PASSES = 40_000, 25
"""Rendered scenes that `noisyclip-t` learns from first, and how often it sees each."""
MORE_SCENES, MORE_LEARNING_RATE = 200_000, 3e-4
"""Rendered scenes that it sees once thereafter."""
MODELS = ("pipeline", "unet", "clip", "vqa", "noisyclip", "noisyclip-t")


def make_world(work: Path, out: Path, scale: float = 1.0) -> dict[str, dict[str, float]]:
    """Train in `work`, then copy the five models and their logs to `out`; returns the figures.

    Args:
        scale: share of the full steps and rows, to try the recipe out.
    """

    def many(count: int) -> int:
        return max(2, round(count * scale))

    def build_ncc(to: Path) -> None:
        pipeline, limit = str(work / "pipeline"), max(100, many(NCC_PROMPTS))
        build(BuildConfig("ncc", pipeline, to, limit=limit, positions="20:30", batch_size=120, seed=7))

    def train_on_ncc(to: Path) -> None:
        train_noisyclip(TrainConfig(work / "ncc", to, "20:30", start=str(work / "clip"), learning_rate=3e-4))

    def build_scenes(to: Path, count: int) -> None:
        images, pipeline = f"shapes:{max(128, many(count))}", str(work / "pipeline")
        build(BuildConfig("ncc", pipeline, to, process="forward", images=images, positions="50", batch_size=250))

    def train_on_scenes(to: Path) -> None:
        base, passes = str(work / "clip"), max(1, many(PASSES))
        train_noisyclip(LatentCLIPConfig(work / "scenes", to, base=base, process="forward", epochs=passes))

    def train_on_more_scenes(to: Path) -> None:
        base, start = str(work / "clip"), str(work / "noisyclip-t-first")
        scenes, rate = work / "more-scenes", MORE_LEARNING_RATE
        config = LatentCLIPConfig(scenes, to, base=base, start=start, process="forward", epochs=1, learning_rate=rate)
        train_noisyclip(config)

    stages: dict[str, Callable[[Path], object]] = {
        "clip": lambda to: clip.train(to, many(800)),
        "vae": lambda to: vae.train(to, many(3500)),
        "vqa": lambda to: vqa.train(to, work / "clip", many(1600)),
        "pipeline": lambda to: denoiser.train(
            to, work / "clip", work / "vae", many(11_000), cached=max(256, many(150_000))
        ),
        "unet": lambda to: unet.train(
            to, work / "clip", work / "vae", many(unet.STEPS), cached=max(256, many(unet.CACHED))
        ),
        "ncc": build_ncc,
        "noisyclip": train_on_ncc,
        "scenes": lambda to: build_scenes(to, SCENES),
        "noisyclip-t-first": train_on_scenes,
        "more-scenes": lambda to: build_scenes(to, MORE_SCENES),
        "noisyclip-t": train_on_more_scenes,
    }
    for name, stage in stages.items():
        done = work / f"{name}.seconds"
        if not done.is_file():
            print(f"{name} ...", flush=True)
            start = time.monotonic()
            stage(work / name)
            done.write_text(f"{time.monotonic() - start:.0f}\n")
        print(f"{name}: {done.read_text().strip()} s", flush=True)
    for name in MODELS:
        shutil.copytree(
            work / name, out / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("train.jsonl", "README.md")
        )
    for name in stages:
        if (work / name / "train.jsonl").is_file():
            (out / "logs").mkdir(parents=True, exist_ok=True)
            shutil.copyfile(work / name / "train.jsonl", out / "logs" / f"{name}.jsonl")
    return measure(
        work, out, many(BENCH_PROMPTS), {name: int((work / f"{name}.seconds").read_text()) for name in stages}
    )


def measure(work: Path, out: Path, prompts: int, seconds: dict[str, int]) -> dict[str, dict[str, float]]:
    """The figures of the models in `out`, written to its `figures.json` and model card."""
    bench = work / "bench"
    build(BuildConfig("genai-bench", pipeline=str(out / "pipeline"), out=bench, limit=prompts, references=()))
    second = work / "bench-unet"
    build(BuildConfig("genai-bench", str(out / "unet"), second, limit=prompts, positions="50", references=()))
    figures = answers(out) | timeline(bench, out, work / "results") | {"unet": second_generator(second, out)}
    (out / "figures.json").write_text(json.dumps(figures | {"seconds": seconds}, indent=2) + "\n")
    write_card(out, figures, seconds)
    return figures


def main() -> None:
    """Parse the command line, make the world, and report where it falls short."""
    parser = argparse.ArgumentParser(prog="make world", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("data/world"), help="folder of the outputs of the stages")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder of the models")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the steps, to try the recipe out")
    options = parser.parse_args()
    figures = make_world(options.work, options.out, options.scale)
    for line in shortfalls(figures):
        print(f"falls short: {line}")


if __name__ == "__main__":
    main()
