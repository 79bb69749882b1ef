"""Scorers without a model: floor, ceiling, and the guidance gap."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from .protocols import Reads


class RandomScorer:
    """A uniform draw per (prompt, candidate, position), the same on every run."""

    name = "random"
    reads: Reads = "nothing"
    fingerprint = "random-1"

    def score_names(self, prompt_ids: Sequence[str], candidates: Sequence[int], position: int) -> torch.Tensor:
        """Scores float64 [B] in 0..1."""
        names = (f"{prompt}/{candidate}/{position}" for prompt, candidate in zip(prompt_ids, candidates, strict=True))
        draws = [int.from_bytes(hashlib.sha256(name.encode()).digest()[:6]) / 2**48 for name in names]
        return torch.tensor(draws, dtype=torch.float64)


class OracleScorer:
    """A PairScorer that gives each candidate, at every position, its final image's score by a reference."""

    def __init__(self, reference: str) -> None:
        self.name, self.reads, self.fingerprint = f"oracle-{reference}", f"reference:{reference}", "oracle-1"

    def score(self, inputs: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """The reference's scores, unchanged: float64 [B]."""
        return inputs


class AttentionFocusScorer:
    """How focused a layer's attention to the prompt's tokens is; a PairScorer that needs no model (after HEaD+, arXiv
    2604.20354).

    Args:
        layer: an attention to the prompt, as in `--signals attention:LAYER`.
    """

    fingerprint = "attention-focus-1"

    def __init__(self, layer: str) -> None:
        self.name, self.reads = f"attention-{layer}", f"attention:{layer}"

    def score(self, inputs: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Minus the mean spread of all tokens, -1..0: [B] of masses and spreads [B, 2 N]."""
        return -inputs.chunk(2, 1)[1].mean(1)


class GuidanceGapScorer:
    """CFG-Rejection (Wang et al., arXiv 2505.23343): the gap between conditional and unconditional predictions, summed
    over the steps before the position; a PairScorer that needs no model.

    The paper relates a large sum to regions of high density and to sample quality.
    """

    name = "cfg-gap"
    reads: Reads = "cfg_gap"
    fingerprint = "cfg-gap-1"

    def score(self, inputs: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Sums float64 [B] of the norms [B, k]; 0 for all at position 0."""
        return inputs.double().sum(1)
