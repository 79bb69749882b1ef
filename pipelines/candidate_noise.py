"""The noise of a candidate, which depends only on its seed."""

from __future__ import annotations

import torch


def candidate_noise(seed: int, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Generator]:
    """The initial noise of a candidate, float32 of `shape` on the CPU, and its generator after the draw.

    A stock pipeline draws the same in float32 from `torch.Generator().manual_seed(seed)`, so a seed alone reproduces a
    candidate, also with schedulers that draw more noise.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float32), generator


def initial_noise(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    """The initial noise of a candidate, float32 of `shape` on the CPU."""
    return candidate_noise(seed, shape)[0]
