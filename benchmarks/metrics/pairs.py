"""Agreement of scores with ratings over all images, and its bootstrap over prompts, from pairs counted by prompt.

Pearson, Kendall's tau-b and pairwise accuracy over all images are sums over images and over pairs of images. Summed
once within and between prompts, they are resampled by prompt, exactly and 10,000 times, without counting again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .agreement import pairwise_accuracy
from .arrays import Array

Indices = NDArray[np.intp]
STATISTICS = ("pearson", "kendall", "pairwise_accuracy")

_CHUNK_CELLS = 4_000_000  # of a table of pairs, or of draws, held at once


@dataclass(frozen=True)
class PairCounts:
    """Sums over the images of P prompts with centred scores x and ratings y, and over their pairs.

    moments: [P, 6], per prompt: images, and sums of x, y, xx, yy, xy. pairs: [5, P, P], counts of ordered pairs of
    different images by the prompts of both: concordant minus discordant; untied in x; untied in y; ordered or
    tied alike, where a difference of x up to the tie threshold is a tie; all.
    """

    moments: Array
    pairs: Array

    def of(self, prompts: Indices) -> PairCounts:
        """The counts of some of the prompts."""
        return PairCounts(self.moments[prompts], self.pairs[:, prompts[:, None], prompts])

    def overall(self) -> Array:
        """`STATISTICS` over all images: [3], NaN where a side is constant or there is no pair."""
        return _statistics(self.moments.sum(0), self.pairs.sum((1, 2)))

    def within(self) -> Array:
        """`STATISTICS` within each prompt: [P, 3], NaN as in `overall`."""
        return _statistics(self.moments.T, np.diagonal(self.pairs, axis1=1, axis2=2))

    def resampled(self, resamples: int = 10_000, seed: int = 0) -> Array:
        """`overall` of prompts drawn with replacement: [resamples, 3]; an image and its own copy are not a pair."""
        n_prompts = len(self.moments)
        rng, chunk = np.random.default_rng(seed), max(1, _CHUNK_CELLS // n_prompts)
        statistics = []
        for start in range(0, resamples, chunk):
            rows = min(chunk, resamples - start)
            cells = rng.integers(n_prompts, size=(rows, n_prompts)) + np.arange(rows)[:, None] * n_prompts
            times = np.bincount(cells.ravel(), minlength=rows * n_prompts).reshape(rows, n_prompts).astype(float)
            weights = times.astype(np.float32)  # in which sums of whole numbers below 2**24 are exact
            pairs = np.stack([((weights @ counts) * times).sum(1) for counts in self.pairs.astype(np.float32)])
            statistics.append(_statistics((times @ self.moments).T, pairs))
        return np.concatenate(statistics)


def count_pairs(scores: Array, ratings: Array, prompts: Indices, tie_threshold: float = 0.0) -> PairCounts:
    """Count the pairs of I images: scores, ratings float [I], finite; prompts int [I], ascending."""
    x, y = scores - scores.mean(), ratings - ratings.mean()
    starts = _starts(prompts)
    moments = np.add.reduceat(np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1), starts)
    blocks = []
    for first, last in _blocks(starts, len(x)):
        rows = slice(starts[first], starts[last] if last < len(starts) else len(x))
        gap = scores[rows, None] - scores
        order, rated = _sign(gap), _sign(ratings[rows, None] - ratings)
        product = order * rated
        tied = np.abs(gap) <= tie_threshold
        counted = (
            product,
            np.abs(order),
            np.abs(rated),
            np.where(tied, rated == 0, product > 0),
            np.ones_like(product),
        )
        by_column = (np.add.reduceat(cells, starts, axis=1, dtype=np.int64) for cells in counted)
        blocks.append([np.add.reduceat(cells, starts[first:last] - starts[first], axis=0) for cells in by_column])
    pairs = np.concatenate(blocks, axis=1).astype(float)
    pairs[3:] -= np.diag(moments[:, 0])  # an image and itself
    return PairCounts(moments, pairs)


def tie_threshold(scores: Array, ratings: Array, prompts: Indices, within: bool = False) -> float:
    """The tie threshold that makes pairwise accuracy highest (see `pairwise_accuracy`); arguments as in `count_pairs`.

    Over the pairs of all images or, if `within`, of the same prompt, each prompt with equal weight.
    """
    if not within:
        return pairwise_accuracy(scores[None], ratings[None])[1]
    starts = _starts(prompts)
    sizes = np.diff(starts, append=len(scores))
    row = np.repeat(np.arange(len(starts)), sizes)
    column = np.arange(len(scores)) - starts[row]
    x, y = np.full((2, len(starts), sizes.max()), np.nan)
    x[row, column], y[row, column] = scores, ratings
    return pairwise_accuracy(x, y)[1]


def _statistics(moments: Array, pairs: Array) -> Array:
    """`STATISTICS` [..., 3] from sums [6, ...] and [5, ...]."""
    n, x, y, xx, yy, xy = moments
    concordance, untied_x, untied_y, agreed, all_pairs = pairs
    spread = np.where((untied_x > 0) & (untied_y > 0), np.sqrt(np.abs((n * xx - x * x) * (n * yy - y * y))), 0.0)
    parts = (
        (n * xy - x * y, spread),
        (concordance, np.sqrt(untied_x * untied_y)),
        (agreed, all_pairs),
    )
    shape = np.shape(all_pairs)
    return np.stack([np.divide(a, b, out=np.full(shape, np.nan), where=np.asarray(b) > 0) for a, b in parts], axis=-1)


def _starts(prompts: Indices) -> Indices:
    return np.flatnonzero(np.diff(prompts, prepend=prompts[0] - 1))


def _blocks(starts: Indices, n_images: int) -> Iterator[tuple[int, int]]:
    """Runs of prompts (first, one past the last), each with a small enough table against all images."""
    first = 0
    ends = np.append(starts[1:], n_images)
    while first < len(starts):
        room = starts[first] + max(1, _CHUNK_CELLS // n_images)
        last = max(first + 1, int(np.searchsorted(ends, room, "right")))
        yield first, last
        first = last


def _sign(values: Array) -> NDArray[np.int8]:
    return np.sign(values).astype(np.int8)
