"""Endless training batches, drawn on the fly: rendered scenes, their captions, corrupted captions."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from ..grammar import CORRUPTION_KINDS, Scene, corrupt, scenes
from ..render import Drawing, render


@dataclass(frozen=True)
class Batch:
    """pixels: float [B, 3, 32, 32] in -1..1; captions: B; corrupted: for every kind, B captions."""

    scenes: list[Scene]
    drawing: Drawing
    pixels: torch.Tensor
    captions: list[str]
    corrupted: dict[str, list[str]]

    def with_corrupted(self, kinds: Iterable[str]) -> list[str]:
        """The captions, then the corrupted ones of each of `kinds`."""
        return self.captions + [caption for kind in kinds for caption in self.corrupted[kind]]


def batches(seed: int, size: int, held_out: bool = False) -> Iterator[Batch]:
    """Batches of `size` scenes of one side of the split; the same seed gives the same batches."""
    source = scenes(seed, held_out)
    rng, numpy_rng = random.Random(f"corrupt|{seed}"), np.random.default_rng(seed)
    while True:
        chosen = list(itertools.islice(source, size))
        drawing = render(chosen, numpy_rng)
        yield Batch(
            chosen,
            drawing,
            to_pixels(drawing.images),
            [scene.caption for scene in chosen],
            {kind: [corrupt(scene, kind, rng).caption for scene in chosen] for kind in CORRUPTION_KINDS},
        )


def shuffled(count: int, batch_size: int, seed: int) -> Iterator[torch.Tensor]:
    """Row numbers [B] of whole batches, endlessly, in a new order after each pass over `count` rows."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(count, generator=generator)[: count // batch_size * batch_size].split(batch_size)


def to_pixels(images: np.ndarray) -> torch.Tensor:
    """uint8 [B, H, W, 3] -> float [B, 3, H, W] in -1..1, as the VAE, CLIP and VQA models of the world take it."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
