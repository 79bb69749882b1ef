"""What the experiments read, each built when it is first needed: benches, scenes, generated images, and models."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..benchmarks.build import build
from ..benchmarks.scoring.references import add_references
from ..benchmarks.scoring.references_config import AddConfig
from ..builders.config import BuildConfig
from ..pipelines.aliases import WORLD_PIPELINE
from ..shapes.grammar import parse
from ..shapes.truth import matches
from ..shards.dataset import read_info
from ..shards.reader import open_bench
from ..training.config import X0VQAConfig
from ..training.x0vqa import train

POSITIONS = {"shapes": "0:17,20,25,30,35,40,45,50", "shapes-unet": "5,8,10:32,35,40,45,50"}
"""Of the benches, by pipeline: every one where images are decided, so that policies of the frontier may act there."""
AHEAD = "1:12"
"""Positions of the bench of look-aheads, each of which costs a call there."""
PROMPTS = 300
GENERATED, GENERATED_CANDIDATES = 400, 4
X0_ROWS, X0_EPOCHS = 2400, 8
X0_POSITIONS = {"shapes": "1:13", "shapes-unet": "5:32"}
"""That the VQA model of x0 estimates is trained on, by pipeline: those where images are decided."""
SEEDS = 3
"""Trainings per model; also the folds of prompts where a model is trained on the others' images."""
SHARES = (0, 50, 100)
"""Percentages of right images that the training sets of the captions experiment have."""
SHARE_ROWS = 470


@dataclass(frozen=True)
class Data:
    """The folder of all data sets; a data set has a name, and its folder there."""

    folder: Path

    def __call__(self, name: str) -> Path:
        """The data set `name`, built unless it is complete."""
        kind, _, argument = name.partition("-")
        _MAKERS[kind](self, self.folder / name, argument)
        return self.folder / name

    def model(self, name: str) -> Path:
        """The shipped model `name`, or else the data set of this name."""
        shipped = WORLD_PIPELINE.with_name(name)
        return shipped if shipped.is_dir() else self(name)


def _bench(data: Data, out: Path, pipeline: str) -> None:
    """PROMPTS held-out prompts with six candidates each, and x0 estimates."""
    if not _complete(out):
        pipeline, signals = pipeline or "shapes", ("latent", "x0", "image")
        config = BuildConfig(
            "genai-bench", pipeline, out, limit=PROMPTS, positions=POSITIONS[pipeline], signals=signals
        )
        build(config, progress=False)


def _ahead(data: Data, out: Path, argument: str) -> None:
    """The candidates of the bench, with what one coarse further step makes of their x0 estimates."""
    if not _complete(out):
        signals = ("latent", "x0@2", "image")
        config = BuildConfig(
            "genai-bench", "shapes", out, limit=PROMPTS, positions=AHEAD, signals=signals, references=()
        )
        build(config, progress=False)


def _x0vqa(data: Data, out: Path, argument: str) -> None:
    """[PIPELINE]: the VQA model of docs/scorers.md, trained on x0 estimates of other prompts."""
    if (out / "config.json").is_file():
        return
    examples, pipeline = out.with_name(f"{out.name}-examples"), argument or "shapes"
    signals, positions = ("latent", "x0", "image"), X0_POSITIONS[pipeline]
    if not _complete(examples):
        config = BuildConfig("ncc", pipeline, examples, limit=X0_ROWS, positions=positions, signals=signals, seed=11)
        build(config, progress=False)
    train(X0VQAConfig(examples, out=out, positions=positions, epochs=X0_EPOCHS), shown=False)


def _scenes(data: Data, out: Path, argument: str) -> None:
    """COUNT[-PIPELINE]: finished latents of rendered scenes, to which training adds the noise of a pipeline."""
    count, _, pipeline = argument.partition("-")
    if not _complete(out):
        _forward(f"shapes:{count}", out, pipeline or "shapes")


def _generated(data: Data, out: Path, argument: str) -> None:
    """Trajectories and x0 estimates of training prompts, several candidates each, with references."""
    if not _complete(out):
        config = BuildConfig(
            "ncc",
            out=out,
            limit=GENERATED,
            candidates=GENERATED_CANDIDATES,
            positions="0:50:5",
            signals=("latent", "x0", "image"),
            batch_size=120,
            seed=7,
        )
        build(config, progress=False)
        add_references(AddConfig(out, ("vqascore",)))


def _share(data: Data, out: Path, argument: str) -> None:
    """PERCENT-FOLD: SHARE_ROWS images of the bench, of prompts of the other folds, of which PERCENT are right."""
    if _complete(out):
        return
    percent, seed = map(int, argument.split("-"))
    bench = open_bench(data("bench"))
    images, captions = [], list[str]()
    others = {prompt.prompt_id for number, prompt in enumerate(bench.prompts) if number % SEEDS != seed}
    for batch in bench.batches(images=True):
        kept = [row for row, name in enumerate(batch.prompt_ids) if name in others]
        captions += [batch.prompts[row] for row in kept]
        images += [] if batch.images is None else [batch.images[kept]]
    pictures = np.concatenate(images)
    right = matches(pictures, [parse(caption) for caption in captions])
    rng, many = np.random.default_rng(seed), round(SHARE_ROWS * percent / 100)
    parts = [(np.flatnonzero(right), many), (np.flatnonzero(~right), SHARE_ROWS - many)]
    chosen = np.concatenate([rng.choice(rows, size, replace=False) for rows, size in parts])
    folder = data.folder / f"images-{out.name}"
    _save(folder, [captions[row] for row in chosen], pictures[chosen])
    _forward(folder, out, "shapes")


def _forward(images: str | Path, out: Path, pipeline: str) -> None:
    config = BuildConfig("ncc", pipeline, out, process="forward", images=images, positions="50", batch_size=250)
    build(config, progress=False)


def _save(folder: Path, captions: Sequence[str], images: np.ndarray) -> None:
    """Write images and captions as `--images` reads them; the captions come last, when all is there."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, (caption, pixels) in enumerate(zip(captions, images, strict=True)):
        Image.fromarray(pixels).save(folder / f"{number:06d}.png")
        line = {"id": f"{number:06d}", "prompt": caption, "file_name": f"{number:06d}.png"}
        lines.append(json.dumps(line) + "\n")
    (folder / "captions.jsonl").write_text("".join(lines))


def _complete(out: Path) -> bool:
    return (out / "dataset.json").is_file() and read_info(out).complete


_MAKERS: dict[str, Callable[[Data, Path, str], None]] = {
    "bench": _bench,
    "ahead": _ahead,
    "x0vqa": _x0vqa,
    "scenes": _scenes,
    "generated": _generated,
    "share": _share,
}
