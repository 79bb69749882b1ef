"""Scorers without a model: what any other one must beat, and what none can."""

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


class OracleScorer:
    """A PairScorer that gives each candidate, at every position, the score that its final image has by a reference."""

    def __init__(self, reference: str) -> None:
        self.name, self.reads, self.fingerprint = f"oracle-{reference}", f"reference:{reference}", "oracle-1"

    def score(self, inputs: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """The reference's scores, as they come: float64 [B]."""
        return inputs


class GuidanceGapScorer:
    """CFG-Rejection (Wang et al., arXiv 2505.23343): the gap of conditional and unconditional predictions, accumulated
    over the steps before the position; a PairScorer that needs no model.

    The paper finds samples of high density, and of quality, where the accumulated score difference is large.
    """

    name = "cfg-gap"
    reads: Reads = "cfg_gap"
    fingerprint = "cfg-gap-1"

    def score(self, inputs: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Sums float64 [B] of the norms [B, k]; 0 for all at position 0."""
        return inputs.double().sum(1)
