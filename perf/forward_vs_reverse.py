"""NoisyCLIP trained on noise added to images (forward) beside NoisyCLIP trained on trajectories (reverse).

python perf/forward_vs_reverse.py [--rows 400] [--epochs 5] [--prompts 30] [--most 4] [--work FOLDER] [--json FILE]
python perf/forward_vs_reverse.py --ncc data/ncc --bench data/bench --positions 8:13

In the embedded world, on the same captions; all models are evaluated on generated candidates of held-out prompts. Two
forward sets have as many rows as the trajectories: rendered scenes, and the final images of the trajectories. A third
has the same total cost: rendered scenes of --most times as many captions, and more training in place of generation.
With --ncc (trajectories with images) and --bench, only a few rows are built, to time them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nbench.benchmarks.build import build
from nbench.benchmarks.evaluate import evaluate
from nbench.benchmarks.evaluate_config import EvaluateConfig
from nbench.builders.config import BuildConfig
from nbench.builders.prompts.choose import world_prompts
from nbench.scorers.builtin import fitting
from nbench.shapes.grammar import parse
from nbench.shapes.render import render
from nbench.shards.positions import parse_positions
from nbench.shards.reader import open_bench
from nbench.training.config import TrainConfig
from nbench.training.noisyclip import train

TIMED = 128
"""Rows of trajectories that are built for timing with --ncc."""


def seconds_per_row(config: BuildConfig) -> float:
    """Seconds per row of a new build, loading included, after a small build to warm up."""
    build(BuildConfig(**{**vars(config), "limit": 2, "out": Path(f"{config.out}-warm-up")}), progress=False)
    began = time.perf_counter()
    report = build(config, progress=False)
    return (time.perf_counter() - began) / report.rows


def save(folder: Path, rows: list[tuple[str, str]], images: np.ndarray) -> Path:
    """Write images with their ids and captions in the format of `--images`."""
    folder.mkdir()
    lines = []
    for (name, text), pixels in zip(rows, images, strict=True):
        Image.fromarray(pixels).save(folder / f"{name}.png")
        lines.append(json.dumps({"id": name, "prompt": text, "file_name": f"{name}.png"}))
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def rendered(folder: Path, count: int) -> Path:
    """Rendered scenes of the first captions of the embedded world's NCC, exactly as described."""
    prompts = world_prompts("ncc", count)
    scenes = render([parse(prompt.text) for prompt in prompts], np.random.default_rng(0)).images
    return save(folder, [(prompt.id, prompt.text) for prompt in prompts], scenes)


def finished(folder: Path, ncc: Path) -> Path:
    """The final images of the trajectories."""
    rows, images = list[tuple[str, str]](), []
    for batch in open_bench(ncc).batches(images=True):
        rows += zip(batch.prompt_ids, batch.prompts, strict=True)
        images += [] if batch.images is None else [batch.images]
    return save(folder, rows, np.concatenate(images))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=400, help="trajectories to train on (400)")
    parser.add_argument("--epochs", type=int, default=5, help="passes over them (5)")
    parser.add_argument("--prompts", type=int, default=30, help="prompts of the bench, 6 candidates each (30)")
    parser.add_argument("--most", type=int, default=4, help="times as many rows at the same cost (4)")
    parser.add_argument("--positions", default="20:30", help="to train on, and judged at every other (20:30)")
    parser.add_argument("--ncc", type=Path, help="trajectories to train on, built with images, in place of --rows")
    parser.add_argument("--bench", type=Path, help="a bench that holds the positions, in place of --prompts")
    parser.add_argument("--targets", choices=("image", "caption"), default="image", help="as nbench train takes them")
    parser.add_argument("--work", type=Path, help="an empty folder for all files")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = run(options, options.work or Path(folder))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def run(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    work.mkdir(exist_ok=True, parents=True)
    ncc = {name: work / name for name in ("reverse", "forward-rendered", "forward-generated", "forward-same-cost")}
    common: dict[str, Any] = {"positions": options.positions, "batch_size": 100}
    limit = TIMED if options.ncc else options.rows
    seconds = {"reverse": seconds_per_row(BuildConfig("ncc", out=ncc["reverse"], limit=limit, **common))}
    ncc["reverse"] = options.ncc or ncc["reverse"]
    count = open_bench(ncc["reverse"]).info.rows

    def forward(name: str, images: Path) -> None:
        seconds[name] = seconds_per_row(BuildConfig("ncc", process="forward", images=images, out=ncc[name], **common))

    forward("forward-rendered", rendered(work / "rendered", count))
    forward("forward-generated", finished(work / "finished", ncc["reverse"]))
    cheaper = seconds["reverse"] / seconds["forward-rendered"]
    forward("forward-same-cost", rendered(work / "many", count * options.most))
    models, epochs, spent = (
        [fitting("clip", open_bench(ncc["reverse"]).info.latent_space)],
        dict[str, int](),
        dict[str, float](),
    )
    for name, data in ncc.items():
        epochs[name] = options.epochs
        if name == "forward-same-cost":
            left = count * seconds["reverse"] + spent["reverse"] - count * options.most * seconds[name]
            epochs[name] = max(1, int(left / (options.most * spent["reverse"] / options.epochs)))
        out = work / f"{name}-model"
        began = time.perf_counter()
        common_options: dict[str, Any] = {"learning_rate": 3e-4, "targets": options.targets}
        models.append(
            train(TrainConfig(data, out, options.positions, epochs=epochs[name], **common_options), shown=False)
        )
        spent[name] = time.perf_counter() - began
    bench = options.bench or work / "bench"
    judged = ",".join(map(str, parse_positions(options.positions, 50)[::2]))
    if not options.bench:
        build(BuildConfig("genai-bench", out=bench, limit=options.prompts, positions=judged), progress=False)
    report = evaluate(EvaluateConfig(bench, tuple(map(str, models)), judged, work / "results"))
    rows = {name: open_bench(data).info.rows for name, data in ncc.items()}
    print(f"{cheaper:.1f} times cheaper a row: " + ", ".join(f"{n} {1000 * s:.2f} ms" for n, s in seconds.items()))
    print("trained: " + ", ".join(f"{n} {epochs[n]} epochs, {s:.0f} s" for n, s in spent.items()))
    print("mean within-prompt Spearman with VQAScore on the final image:")
    for row in report.rows:
        if row.reference == "vqascore":
            size = rows.get(row.model.removesuffix("-model"), 0)
            print(f"  {row.model:26s} {size:6d} rows, position {row.position}: {row.spearman or float('nan'):.3f}")
    for lead in report.comparisons:
        if lead.reference == "vqascore" and None not in (lead.difference, lead.low, lead.high):
            interval = f"{lead.difference:+.3f} ({lead.low:+.3f} to {lead.high:+.3f})"
            print(f"  {lead.model} - {lead.other} at {lead.position}: {interval}")
    figures = [vars(row) for row in report.rows if row.reference == "vqascore"]
    return {"seconds_a_row": seconds, "training": spent, "epochs": epochs, "rows": rows, "figures": figures}


if __name__ == "__main__":
    main()
