"""What a scorer is: small protocols by capability, batch in, array out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import torch

Reads = Literal["latent", "preview", "image", "nothing"]
"""What the harness hands a scorer, as float32 on its device: the raw latent [B, C, h, w]; its linear preview or the
final image, both RGB [B, 3, H, W] in 0..1; or nothing, for scorers that know a trajectory by its name only."""


class Scorer(Protocol):
    """What every scorer says of itself. The fingerprint covers all that changes its scores."""

    name: str
    reads: Reads
    fingerprint: str


@runtime_checkable
class TwinTower(Scorer, Protocol):
    """Embeds prompts and inputs apart, so that each is embedded once; the score is the cosine."""

    def embed_text(self, prompts: Sequence[str]) -> torch.Tensor:
        """Unit-norm embeddings float32 [P, D]."""
        ...

    def embed_inputs(self, inputs: torch.Tensor) -> torch.Tensor:
        """Unit-norm embeddings float32 [B, D] of what the scorer reads."""
        ...


@runtime_checkable
class PairScorer(Scorer, Protocol):
    """Looks at input and prompt together."""

    def score(self, inputs: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Scores float [B] of each input with its own prompt."""
        ...


@runtime_checkable
class NameScorer(Scorer, Protocol):
    """Reads nothing: scores a trajectory by its name."""

    def score_names(self, prompt_ids: Sequence[str], candidates: Sequence[int], position: int) -> torch.Tensor:
        """Scores float [B]."""
        ...
