"""A plain function as a scorer."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..errors import NbenchError
from .protocols import Reads, Scorer, checked_scorer


class FunctionScorer:
    """A PairScorer of `function(inputs, prompts) -> scores [B]`.

    The code of a function does not tell what it refers to, so the fingerprint is new each time: scores of an earlier
    session are not taken for those of this function.
    """

    def __init__(self, function: Callable[[torch.Tensor, Sequence[str]], Any], reads: Reads = "preview") -> None:
        self._function, self.reads = function, reads
        self.name = getattr(function, "__name__", type(function).__name__).strip("<>")
        self.fingerprint = hashlib.sha256(f"{self.name} {uuid.uuid4()}".encode()).hexdigest()[:32]

    def score(self, inputs: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """What the function returns, as a tensor [B]."""
        return torch.as_tensor(self._function(inputs, prompts))


def as_scorer(scorer: object, reads: Reads = "preview") -> Scorer:
    """A scorer, from a scorer or from a function of (inputs, prompts); reads: what a function is given.

    Raises:
        NbenchError: it is neither.
    """
    if isinstance(scorer, type):
        raise NbenchError(f"{scorer.__name__} is a class, not a scorer: hand over {scorer.__name__}(...)")
    if callable(scorer) and not hasattr(scorer, "fingerprint"):
        return checked_scorer(FunctionScorer(scorer, reads), getattr(scorer, "__name__", "the function"))
    return checked_scorer(scorer, type(scorer).__name__)
