"""Embeddings of prompts by a generator's text encoders, each prompt once while rows of it are scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

Embedded = tuple[torch.Tensor, ...]
"""Tensors of one prompt, without a batch dimension."""


class EmbeddedPrompts:
    """Embeds prompts and remembers those of the last call: positions of a bench are scored with the same prompts.

    Args:
        embed: tensors [P, ...] of P prompts.
    """

    def __init__(self, embed: Callable[[list[str]], Embedded]) -> None:
        self._embed = embed
        self._known: dict[str, Embedded] = {}

    def __call__(self, prompts: Sequence[str]) -> Embedded:
        """Tensors [B, ...], one row per prompt."""
        wanted = list(dict.fromkeys(prompts))
        new = [prompt for prompt in wanted if prompt not in self._known]
        if new:
            self._known |= dict(zip(new, zip(*self._embed(new), strict=True), strict=True))
        self._known = {prompt: self._known[prompt] for prompt in wanted}
        return tuple(torch.stack(column) for column in zip(*(self._known[prompt] for prompt in prompts), strict=True))
