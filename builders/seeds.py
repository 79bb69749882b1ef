"""One seed and one generator a candidate, so that nobody's noise depends on who else is in the build."""

from __future__ import annotations

import hashlib

import torch


def candidate_seed(base_seed: int, prompt_id: str, candidate: int) -> int:
    """The seed of a candidate, 0..2**63-1: a hash of its names alone.

    >>> candidate_seed(0, "shapes-00012", 3)
    3984239266630764061
    """
    digest = hashlib.sha256(f"{base_seed}/{prompt_id}/{candidate}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


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
