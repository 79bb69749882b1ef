"""Bootstrap intervals over prompts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .metrics import Array, mean_over_prompts

_CHUNK_CELLS = 4_000_000  # resampling weights held at once: 32 MB


class Interval(NamedTuple):
    """Means over prompts with their percentile intervals, float [K] each; NaN where no prompt counts."""

    mean: Array
    low: Array
    high: Array


def bootstrap_means(values: Array, resamples: int = 10_000, seed: int = 0) -> Array:
    """Means over prompts, drawn anew with replacement, of K values: float [P, K] -> [resamples, K].

    All columns see the same draws, so statistics of several means can be taken of each row. A NaN leaves its prompt
    out of its column.
    """
    n_prompts = len(values)
    known = np.isfinite(values)
    terms = np.concatenate([np.where(known, values, 0.0), known], axis=1)
    rng = np.random.default_rng(seed)
    chunk = max(1, _CHUNK_CELLS // n_prompts)
    sums = []
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        cells = rng.integers(n_prompts, size=(rows, n_prompts)) + np.arange(rows)[:, None] * n_prompts
        times_drawn = np.bincount(cells.ravel(), minlength=rows * n_prompts).reshape(rows, n_prompts)
        sums.append(times_drawn.astype(float) @ terms)
    totals, counts = np.split(np.concatenate(sums), 2, axis=1)
    return np.divide(totals, counts, out=np.full(totals.shape, np.nan), where=counts > 0)


def bootstrap_ci(values: Array, level: float = 0.95, resamples: int = 10_000, seed: int = 0) -> Interval:
    """Percentile bootstrap interval of the mean over prompts of each of K values, float [P, K].

    It is NaN where so few prompts count that some of the draws have none of them.

    >>> bootstrap_ci(np.array([[1.0], [1.0]])).low
    array([1.])
    """
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(bootstrap_means(values, resamples, seed), tails, axis=0)
    return Interval(mean_over_prompts(values), low, high)


def paired_difference(ours: Array, theirs: Array, level: float = 0.95, seed: int = 0) -> Interval:
    """Interval of the mean of `ours - theirs`, float [P, K] each, over the prompts that have both.

    >>> paired_difference(np.array([[0.5], [0.75]]), np.array([[0.25], [0.5]])).mean
    array([0.25])
    """
    return bootstrap_ci(ours - theirs, level, seed=seed)
