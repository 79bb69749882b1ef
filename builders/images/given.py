"""The images of a forward-process build, and the human ratings of them as a score table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from ...errors import NbenchError
from ...jobs.mirror import mirrored
from ...options import local_path
from ...shards.dataset import DatasetFolder
from ...shards.schema import DatasetInfo, digest
from ...shards.scores import PROMPT, SCORE_SCHEMA, read_scores, reference_path, scores_metadata, write_scores
from ..candidates import Plan
from ..config import BuildConfig
from ..prompts.choose import PromptSet
from ..prompts.hub import NAMES, is_hub_name
from .files import image_files
from .hub import hub_images
from .source import ChosenImages, ImageSource, choose_images
from .world import PREFIX, world_images

HUMAN = "human"
"""The score table of human ratings; higher means that an image shows its prompt better."""


def given_images(config: BuildConfig) -> tuple[PromptSet, ChosenImages]:
    """The captions and images that `config` selects.

    Raises:
        NbenchError: the images do not exist, or captions are missing.
    """
    return choose_images(config.image_request, _open(config), config.candidates)


def on_hub(images: str | Path | None) -> bool:
    """Whether `--images` names a data set on the Hub, and nothing on this machine."""
    source = str(images)
    named = source.partition("@")[0].partition(":")[0] in NAMES
    return named or (not Path(source).exists() and is_hub_name(source))


def write_ratings(plan: Plan, images: ChosenImages, folder: DatasetFolder) -> None:
    """Write the mean human ratings, if there are any, to `scores/human.parquet`, unless it is already there."""
    with mirrored(folder.place, "scores") as base:
        _write_ratings(plan, images, folder.info, reference_path(base, HUMAN))


def _write_ratings(plan: Plan, images: ChosenImages, info: DatasetInfo, path: Path) -> None:
    present = path.exists() and scores_metadata(read_scores(path)).get("bench_fingerprint") == info.fingerprint
    ratings = None if present else images.ratings()
    if ratings is None:
        return
    count, n = len(plan.prompts), images.candidates
    values = np.array(ratings, dtype=float).reshape(count * n)
    columns = {
        "prompt_id": [plan.prompts[number].id for number in range(count) for _ in range(n)],
        "candidate": list(range(n)) * count,
        "position": [info.steps] * len(values),
        "caption": [PROMPT] * len(values),
        "score": values,
        "status": np.where(np.isfinite(values), "ok", "failed"),
    }
    metadata = {
        "scorer": HUMAN,
        "scorer_fingerprint": digest({"ratings": np.nan_to_num(values, nan=-1.0).tolist()}),
        "bench_fingerprint": info.fingerprint,
        "source": plan.spec["images"]["source"],
    }
    write_scores(path, pa.table(columns, schema=SCORE_SCHEMA), metadata)


def _open(config: BuildConfig) -> ImageSource:
    source = str(config.images)
    if source.startswith(PREFIX):
        return world_images(source)
    if on_hub(source):
        return hub_images(source, config.image_columns)
    if config.image_columns:
        raise NbenchError(f"--image-column is for data sets on the Hub, and {source} is not one: leave it out")
    return image_files(local_path("--images", source), config.prompt_column)
