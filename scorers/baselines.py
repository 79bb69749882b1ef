"""Scorers that look at nothing: what any other one must beat."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from .protocols import Reads


class RandomScorer:
    """A uniform draw for each (prompt, candidate, position), the same on every run."""

    name = "random"
    reads: Reads = "nothing"
    fingerprint = "random-1"

    def score_names(self, prompt_ids: Sequence[str], candidates: Sequence[int], position: int) -> torch.Tensor:
        """Scores float64 [B] in 0..1."""
        names = (f"{prompt}/{candidate}/{position}" for prompt, candidate in zip(prompt_ids, candidates, strict=True))
        draws = [int.from_bytes(hashlib.sha256(name.encode()).digest()[:6]) / 2**48 for name in names]
        return torch.tensor(draws, dtype=torch.float64)
