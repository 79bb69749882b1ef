"""NoisyCLIP (arXiv 2512.08505): a dual encoder whose image tower is fine-tuned on noisy latents or previews."""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import NbenchError
from ..scorers.builtin import fitting
from ..scorers.weights import folder_fingerprint, model_folder
from ..shards.reader import open_bench
from ..shards.schema import LatentSpace
from .config import TrainConfig
from .finetune import fine_tune, read_training
from .learner import DualEncoderLearner


def train(config: TrainConfig, shown: bool = True) -> Path:
    """Fine-tune the image tower of a dual encoder; see `fine_tune`."""
    space = open_bench(config.data).info.latent_space
    folder = model_folder(config.source or fitting("clip", space))
    base = _base(config, space, folder)
    return fine_tune(
        config, lambda device: DualEncoderLearner(config, space, folder, base, device), folder, shown, base
    )


def _base(config: TrainConfig, space: LatentSpace, start: Path) -> Path:
    """The frozen model that is the teacher: what training starts from, or began from if that was trained here.

    Raises:
        NbenchError: it is not known, or is another than that of the training so far.
    """
    trained = read_training(start)
    if trained is None and "nbench" not in json.loads((start / "config.json").read_bytes()):
        if config.base is not None and config.start is not None:
            raise NbenchError(f"--start {start} was not trained here, so it is its own teacher: leave --base out")
        return start
    given = config.base if config.start is not None else None
    try:
        base = fitting("clip", space) if given is None else model_folder(given)
    except NbenchError as error:
        raise NbenchError(f"{error}; {start} was trained from a base, its teacher: name it by --base") from None
    if trained and folder_fingerprint(base, "start") != trained.get("base", trained["start"]):
        raise NbenchError(f"{start} was trained from another base than {base}: name that by --base, beside --start")
    return base
