"""Uncertainty over prompts: bootstrap, groups of prompts for pooled statistics, paired tests, multiple testing."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit

from .arrays import Array, mean_over_prompts, ratio

RESAMPLES = 10_000
_CHUNK_CELLS = 2_000_000  # resampling weights in memory at once
_BLOCK_ROWS = 1024
_GROUPS, _GROUP_PROMPTS = 20, 5


class Interval(NamedTuple):
    """Means over prompts with their intervals, float [K] each; NaN where no prompt counts."""

    mean: Array
    low: Array
    high: Array


def bootstrap_means(values: Array, resamples: int = RESAMPLES, seed: int = 0) -> Array:
    """Means of K values over prompts resampled with replacement: float [P, K] -> [resamples, K].

    All columns share the same draws, so a row can feed a statistic of several means. A NaN leaves its prompt out of its
    column. Deviations from the mean are summed in float32: accurate to 1e-6 of their spread, and exact where constant.
    """
    n_prompts = len(values)
    finite = np.isfinite(values)
    centre = mean_over_prompts(values)
    scaled, spread = _scaled(values, centre)
    distinct, which = _distinct_columns(finite)
    rng = np.random.default_rng(seed)
    chunk = max(1, _CHUNK_CELLS // n_prompts)
    means = np.empty((resamples, values.shape[1]))
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        draws = rng.integers(n_prompts, size=(rows, n_prompts), dtype=np.int32)
        times = np.stack([np.bincount(row, minlength=n_prompts) for row in draws]).astype(np.float32)
        counts = (times @ distinct)[:, which]
        means[start : start + rows] = ratio(times @ scaled, counts)
    means *= spread
    means += centre
    return means


def percentiles(draws: Array, level: float = 0.95) -> tuple[Array, Array]:
    """Ends of the percentile interval of draws float [R, K]: [K] each, NaN where a draw is NaN."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def bootstrap_ci(values: Array, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Percentile bootstrap interval of the mean over prompts of each of K values, float [P, K].

    NaN where so few prompts count that some draws contain none of them.

    >>> bootstrap_ci(np.array([[1.0], [1.0]])).low
    array([1.])
    """
    return Interval(mean_over_prompts(values), *percentiles(bootstrap_means(values, resamples, seed), level))


def paired_difference(ours: Array, theirs: Array, level: float = 0.95, seed: int = 0) -> Interval:
    """Interval of the mean of `ours - theirs`, float [P, K] each, over the prompts that have both.

    >>> paired_difference(np.array([[0.5], [0.75]]), np.array([[0.25], [0.5]])).mean
    array([0.25])
    """
    return bootstrap_ci(ours - theirs, level, seed=seed)


def grouped_ci(statistic: Callable[..., Array], *tables: Array, level: float = 0.95, seed: int = 0) -> Interval:
    """Interval of a statistic of all candidates pooled that is not a mean over prompts, such as a global correlation.

    statistic: takes tables [R, M] and gives float [R], one value per row; tables: [P, N] each. The interval is centred
    on the statistic of all prompts; its width is that of the mean over 20 random groups of prompts by Student's t
    (below 100 prompts: fewer groups, of five). It costs about as much as the statistic itself. NaN below ten prompts,
    or where a group has no value.
    """
    whole = statistic(*(table.reshape(1, -1) for table in tables))
    n_prompts = len(tables[0])
    groups = min(_GROUPS, n_prompts // _GROUP_PROMPTS)
    if groups < 2:
        return Interval(whole, np.full(1, np.nan), np.full(1, np.nan))
    order = np.random.default_rng(seed).permutation(n_prompts)[: n_prompts // groups * groups]
    parts = statistic(*(table[order].reshape(groups, -1) for table in tables))
    half = stdtrit(groups - 1, (1 + level) / 2) * parts.std(ddof=1) / np.sqrt(groups)
    return Interval(whole, whole - half, whole + half)


def paired_test(ours: Array, theirs: Array) -> Array:
    """Two-sided p-values of the paired t-test, float [P, K] each -> [K], over the prompts that have both.

    NaN below two prompts, or where all differences are equal.

    >>> paired_test(np.array([[1.0], [2.0], [4.0]]), np.array([[0.0], [0.0], [0.0]])).round(3)
    array([0.118])
    """
    difference = ours - theirs
    finite = np.isfinite(difference)
    n, mean = finite.sum(0), mean_over_prompts(difference)
    squares = np.where(finite, (difference - mean) ** 2, 0.0).sum(0)
    freedom = np.where(n > 1, n - 1, np.nan)
    error = np.sqrt(squares / freedom / np.maximum(n, 1))
    rounding = 1e-12 * np.maximum(np.abs(mean), np.abs(np.where(finite, ours, 0.0)).max(0, initial=0.0))
    return np.asarray(2 * stdtr(freedom, -np.abs(ratio(mean, np.where(error > rounding, error, 0.0)))))


def holm(p_values: Array) -> Array:
    """Holm's step-down correction of a family of p-values, float [K]; NaN values are not members.

    >>> holm(np.array([0.01, 0.04, np.nan, 0.03]))
    array([0.03, 0.06,  nan, 0.06])
    """
    corrected = np.full(p_values.shape, np.nan)
    members = np.flatnonzero(np.isfinite(p_values))
    order = members[np.argsort(p_values[members], kind="stable")]
    steps = p_values[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected


def _scaled(values: Array, centre: Array) -> tuple[np.ndarray, Array]:
    """Deviations float32 [P, K] divided by each column's largest, 0 for NaN; and that largest, float [K].

    In blocks of prompts, because the values may fill much of the memory.
    """
    blocks = [slice(start, start + _BLOCK_ROWS) for start in range(0, len(values), _BLOCK_ROWS)]
    scaled = np.empty(values.shape, np.float32)
    spread = np.zeros(values.shape[1])
    for rows in blocks:
        spread = np.maximum(spread, np.abs(_deviations(values[rows], centre)).max(0))
    spread[spread == 0] = 1.0
    for rows in blocks:
        scaled[rows] = _deviations(values[rows], centre) / spread
    return scaled, spread


def _deviations(values: Array, centre: Array) -> Array:
    return np.where(np.isfinite(values), values - centre, 0.0)


def _distinct_columns(finite: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct columns of bool [P, K] as float32 [P, D], and the index of each column among them, int [K]."""
    index: dict[bytes, int] = {}
    which = np.array([index.setdefault(np.packbits(column).tobytes(), len(index)) for column in finite.T], int)
    first = [int(np.argmax(which == number)) for number in range(len(index))]
    return finite[:, first].astype(np.float32), which
