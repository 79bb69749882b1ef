"""A reward model from the optional package ImageReward, which reads image files."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..errors import NbenchError, reason_of
from .placement import Placement
from .protocols import Reads


class ImageRewardScorer:
    """A PairScorer from the package image-reward (Xu et al., arXiv 2304.05977).

    Raises:
        NbenchError: the package cannot be imported.
    """

    name = "imagereward"
    reads: Reads = "image"

    def __init__(self, placement: Placement) -> None:
        package = _package("ImageReward", "imagereward")
        self.fingerprint = f"image-reward-{_version('image-reward')}"
        self._model: Any = package.load("ImageReward-v1.0", device=placement.device)

    def score(self, inputs: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Scores [B] of RGB images [B, 3, H, W] in 0..1, each with its own prompt."""
        with tempfile.TemporaryDirectory() as folder:
            files = _as_files(inputs, Path(folder))
            return torch.tensor([self._model.score(*pair) for pair in zip(prompts, files, strict=True)])


def _package(module: str, scorer: str) -> Any:
    try:
        return importlib.import_module(module)
    except Exception as error:  # both need old packages and fail in many ways with newer ones
        raise NbenchError(
            f"{scorer} needs the package {module} ({reason_of(error)}): if it does not fit nbench's versions, "
            "score the images in an environment of its own"
        ) from None


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"


def _as_files(inputs: torch.Tensor, folder: Path) -> list[str]:
    files = []
    for index, image in enumerate((inputs * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()):
        files.append(str(folder / f"{index}.png"))
        Image.fromarray(image).save(files[-1])
    return files
