"""The noise of a candidate, from its seed alone: nobody's depends on who else is in the build."""

from __future__ import annotations

import torch


def candidate_noise(seed: int, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Generator]:
    """The initial noise of a candidate, float32 of `shape` on the CPU, and its generator as the noise leaves it.

    It is what a stock pipeline draws in float32 when given `torch.Generator().manual_seed(seed)`, so a candidate can
    be made again from its seed alone, under schedulers that draw further noise too.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float32), generator


def initial_noise(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    """The initial noise of a candidate, float32 of `shape` on the CPU."""
    return candidate_noise(seed, shape)[0]
