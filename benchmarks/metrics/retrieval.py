"""Retrieval between prompts and latents: how often a match is among the k nearest, in blocks from embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .arrays import Array, Indices, ratio
from .declaration import SHARE, Figure

RECALL = Figure("recall", "recall", "chance that a match of the query is among the k nearest", "0..1", bounds=SHARE)

_SAME = 1e-6
"""Similarities closer than this are equal: float32 products differ by that much with the shape of a block."""
_BLOCK_CELLS = 2**23


def retrieval_recall(
    texts: NDArray[np.floating], latents: NDArray[np.floating], owners: Indices, ks: Sequence[int] = (1, 5, 10)
) -> tuple[Array, Array]:
    """Recall at each k of `ks`, text to latent and latent to text, float [P, len(ks)] each, in 0..1.

    texts: unit-norm [P, D]; latents: unit-norm [R, D]; owners: int [R], the prompt of each latent. Text to latent:
    the chance that one of the prompt's own latents is among the k nearest; latent to text: that its prompt is,
    averaged over the prompt's latents. Equal similarities are in random order. A prompt without latents is NaN, but
    latents can still retrieve it; a latent that is not finite is left out.

    >>> retrieval_recall(np.eye(2), np.eye(2), np.array([0, 1]), ks=[1])[0].tolist()
    [[1.0], [1.0]]
    """
    finite = np.isfinite(latents).all(-1)
    latents, owners = latents[finite], owners[finite]
    n_prompts = len(texts)
    to_latent = np.full((n_prompts, len(ks)), np.nan)
    block = max(1, _BLOCK_CELLS // max(1, len(latents)))
    for start in range(0, n_prompts, block):
        rows = np.arange(start, min(start + block, n_prompts))
        to_latent[rows] = _hits(texts[rows] @ latents.T, owners[None, :] == rows[:, None], ks)
    to_text = np.zeros((n_prompts, len(ks)))
    block = max(1, _BLOCK_CELLS // max(1, n_prompts))
    for start in range(0, len(latents), block):
        own = owners[start : start + block]
        hits = _hits(latents[start : start + block] @ texts.T, own[:, None] == np.arange(n_prompts), ks)
        np.add.at(to_text, own, hits)
    return to_latent, ratio(to_text, np.bincount(owners, minlength=n_prompts)[:, None])


def _hits(similarity: NDArray[np.floating], own: NDArray[np.bool_], ks: Sequence[int]) -> Array:
    """Chance that a match is among the k nearest, float [B, len(ks)]; NaN in rows without a match."""
    best = np.where(own, similarity, -np.inf).max(-1, initial=-np.inf)[:, None]
    level = np.abs(similarity - best) <= _SAME
    above = ((similarity > best) & ~level).sum(-1)
    mine, others = (level & own).sum(-1), (level & ~own).sum(-1)
    hits = []
    for k in ks:
        missed = np.ones(len(similarity))  # chance that no match is in the places left for the equal similarities
        for place in range(k):
            free = place < k - above
            chance = ratio(np.maximum(others - place, 0), np.maximum(mine + others - place, 0))
            missed *= np.where(free, np.nan_to_num(chance), 1.0)
        hits.append(np.where(mine > 0, 1 - missed, np.nan))
    return np.stack(hits, axis=1)
