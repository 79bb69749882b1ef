"""Agreement and selection metrics: pure functions over the candidates of each prompt.

Everywhere `scores` and `reference` are float [P, N] (P prompts, N candidates), higher is better, NaN where a
candidate has no value. A candidate counts only where both are known, and what cannot be told is NaN, never 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_ROUNDING = 1e-12  # means of equal values may differ by this much


def spearman(scores: Array, reference: Array) -> Array:
    """Spearman's rank correlation within each prompt, ties at their average rank.

    Returns float [P] in -1..1; NaN where fewer than two candidates count or either side is constant.

    >>> spearman(np.array([[1.0, 2.0, 3.0]]), np.array([[0.1, 0.2, 0.9]]))
    array([1.])
    """
    both = _paired(scores, reference)
    x, y = (_signs(values).sum(-1) for values in both)  # centred ranks, doubled: #below - #above
    return _ratio((x * y).sum(-1), np.sqrt((x * x).sum(-1) * (y * y).sum(-1)))


def kendall(scores: Array, reference: Array) -> Array:
    """Kendall's tau-b within each prompt.

    Returns float [P] in -1..1; NaN where fewer than two candidates count or either side is constant.

    >>> kendall(np.array([[1.0, 2.0, 3.0]]), np.array([[0.1, 0.9, 0.2]])).round(3)
    array([0.333])
    """
    x, y = (_signs(values) for values in _paired(scores, reference))
    return _ratio((x * y).sum((-1, -2)), np.sqrt((x * x).sum((-1, -2)) * (y * y).sum((-1, -2))))


def best_worst_gap(scores: Array, reference: Array) -> Array:
    """Score of the candidate that the reference holds best minus that of the one it holds worst (ties averaged).

    Returns float [P]; NaN where the reference tells no best from worst.

    >>> best_worst_gap(np.array([[0.3, 0.1, 0.2]]), np.array([[0.9, 0.5, 0.1]])).round(3)
    array([0.1])
    """
    scores, reference = _paired(scores, reference)
    gap = best_of_n(reference, scores) - best_of_n(-reference, scores)
    return np.where(_highest(reference) > -_highest(-reference), gap, np.nan)


def best_of_n(scores: Array, reference: Array) -> Array:
    """Reference of the candidate that `scores` would pick; among equals, their mean (a fair draw).

    Returns float [P]; NaN where no candidate counts.

    >>> best_of_n(np.array([[0.3, 0.1, 0.3]]), np.array([[0.9, 0.5, 0.1]]))
    array([0.5])
    """
    scores, reference = _paired(scores, reference)
    picked = scores == _highest(scores)[:, None]
    return _ratio(np.where(picked, reference, 0.0).sum(-1), picked.sum(-1))


def random_pick(reference: Array) -> Array:
    """Expected reference of a candidate drawn blindly: float [P], NaN where none counts.

    >>> random_pick(np.array([[0.0, 1.0, np.nan]]))
    array([0.5])
    """
    return best_of_n(np.where(np.isnan(reference), np.nan, 0.0), reference)


def retention(selected: float | Array, final: float | Array) -> Array:
    """Mean reference of the selected candidates as a share of what final-image selection reaches (any shape).

    >>> float(retention(0.75, 1.0))
    0.75
    """
    return _ratio(np.asarray(selected, float), np.asarray(final, float))


def recovered_gain(selected: float | Array, random: float | Array, final: float | Array) -> Array:
    """Share of the gain of final-image selection over a random pick that the selection keeps (any shape).

    0: no better than random, 1: as good as final-image selection; NaN where that gains nothing.

    >>> float(recovered_gain(0.75, 0.5, 1.0))
    0.5
    """
    gain = np.asarray(final - random, float)
    return _ratio(np.asarray(selected - random, float), np.where(np.abs(gain) > _ROUNDING, gain, 0.0))


def mean_over_prompts(values: Array) -> Array:
    """Mean of float [P, ...] over the prompts that have a value: [...], NaN where none has.

    >>> mean_over_prompts(np.array([[1.0, np.nan], [2.0, np.nan]]))
    array([1.5, nan])
    """
    known = np.isfinite(values)
    return _ratio(np.where(known, values, 0.0).sum(0), known.sum(0))


def cost_steps(n_candidates: int, position: int, steps: int) -> int:
    """Denoiser steps of a Best-of-N that chooses at `position` of `steps` and finishes only the chosen one.

    >>> [cost_steps(6, k, 50) for k in (0, 20, 50)]
    [50, 150, 300]
    """
    return n_candidates * position + steps - position


def _paired(scores: Array, reference: Array) -> tuple[Array, Array]:
    known = np.isfinite(scores) & np.isfinite(reference)
    return np.where(known, scores, np.nan), np.where(known, reference, np.nan)


def _signs(values: Array) -> Array:
    """Sign of every difference, [P, N, N]; 0 where either side is missing."""
    return np.nan_to_num(np.sign(values[:, :, None] - values[:, None, :]))


def _highest(values: Array) -> Array:
    return np.fmax.reduce(values, axis=-1)  # ignores NaN and, unlike nanmax, is silent where all are


def _ratio(numerator: Array, denominator: Array) -> Array:
    known = np.isfinite(denominator) & (denominator != 0)
    return np.divide(numerator, denominator, out=np.full(np.shape(denominator), np.nan), where=known)
