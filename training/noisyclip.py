"""NoisyCLIP (arXiv 2512.08505): a dual encoder whose image tower is fine-tuned on noisy latents or previews."""

from __future__ import annotations

from pathlib import Path

from ..scorers.builtin import fitting
from ..scorers.weights import model_folder
from ..shards.reader import open_bench
from .config import TrainConfig
from .finetune import fine_tune
from .learner import DualEncoderLearner


def train(config: TrainConfig, shown: bool = True) -> Path:
    """Fine-tune the image tower of a dual encoder; see `fine_tune`."""
    space = open_bench(config.data).info.latent_space
    folder = model_folder(config.source or fitting("clip", space))
    return fine_tune(config, lambda device: DualEncoderLearner(config, space, folder, device), folder, shown)
