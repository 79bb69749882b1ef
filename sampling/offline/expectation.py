"""The expected selection of a policy, over subsets of the recorded candidates and over random tie-breaking.

Of the N recorded candidates of a prompt, every subset of n is equally likely to be the candidates of a run. The states
are sets of living candidates: `Transition` computes the value of the sets before a stage from that of the sets after.
Arrays are float [P, N] (P prompts, N candidates), NaN where a candidate cannot be used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from ...benchmarks.metrics import Array

Indices = NDArray[np.intp]

_MOST_SETS = 2_000  # of one size; with more, candidates are sampled
_DRAWS = 256
_CHUNK_CELLS = 4_000_000


@lru_cache(maxsize=64)
def sets(n_candidates: int, size: int) -> Indices:
    """All sets of `size` candidates, one per row, in lexicographic order: [C(N, size), size]."""
    rows = list(combinations(range(n_candidates), size))
    return np.array(rows, dtype=np.intp).reshape(len(rows), size)


@lru_cache(maxsize=8)
def _numbers(n_candidates: int) -> Indices:
    """The row in `sets` of the set given by each bit mask: [2^N]."""
    numbers = np.zeros(2**n_candidates, np.intp)
    for size in range(n_candidates + 1):
        rows = sets(n_candidates, size)
        numbers[(1 << rows).sum(-1)] = np.arange(len(rows))
    return numbers


@dataclass(frozen=True)
class Transition:
    """From each set of living candidates to the set of its best at one position.

    flat: [P, sets before], index of the set that stays in the ravelled [P, sets after]. Where a tie crosses the
    cut-off, the sets `tied` (flat index among the sets before) have several equally likely outcomes: `outcomes`, from
    `starts` on.
    """

    flat: Indices
    tied: Indices
    outcomes: Indices
    starts: Indices

    def before(self, after: Array) -> Array:
        """Expected value of the sets before, [P, sets before], from that of the sets after."""
        values = after.ravel()[self.flat]
        if self.tied.size:
            counts = np.diff(self.starts, append=self.outcomes.size)
            values.ravel()[self.tied] = np.add.reduceat(after.ravel()[self.outcomes], self.starts) / counts
        return values


def transition(scores: Array, alive: int, keep: int) -> Transition:
    """The transition from every set of `alive` candidates to its `keep` best by `scores`."""
    n_prompts, n_candidates = scores.shape
    members, numbers = sets(n_candidates, alive), _numbers(n_candidates)
    values = np.where(np.isnan(scores), -np.inf, scores)[:, members]
    order = np.argsort(-values, axis=-1, kind="stable")
    ranked = np.take_along_axis(np.broadcast_to(members, values.shape), order, -1)
    values = np.take_along_axis(values, order, -1)
    width = comb(n_candidates, keep)
    base = np.arange(n_prompts)[:, None] * width
    flat = base + numbers[(1 << ranked[..., :keep]).sum(-1)]
    if keep == alive:
        return Transition(flat, *(np.empty(0, np.intp),) * 3)
    line = values[..., keep - 1]
    straddled = (line == values[..., keep]) & np.isfinite(line)
    above, equal = (values > line[..., None]).sum(-1), (values == line[..., None]).sum(-1)
    tied, outcomes, counts = [], [], []
    for n_above, n_equal in sorted(set(zip(above[straddled].tolist(), equal[straddled].tolist(), strict=True))):
        prompts, rows = np.nonzero(straddled & (above == n_above) & (equal == n_equal))
        bits = 1 << ranked[prompts, rows]
        chosen = bits[:, n_above + sets(n_equal, keep - n_above)].sum(-1) + bits[:, :n_above].sum(-1)[:, None]
        tied.append(prompts * len(members) + rows)
        outcomes.append((prompts[:, None] * width + numbers[chosen]).ravel())
        counts.append(np.full(len(prompts), chosen.shape[1]))
    if not tied:
        return Transition(flat, *(np.empty(0, np.intp),) * 3)
    ends = np.cumsum(np.concatenate(counts))
    return Transition(flat, np.concatenate(tied), np.concatenate(outcomes), np.append(0, ends[:-1]))


def start_weights(usable: NDArray[np.bool_], n: int) -> Array:
    """Probability that each set of `n` candidates is that of a run, [P, C(N, n)]; NaN where too few are usable."""
    fits = usable[:, sets(usable.shape[1], n)].all(-1)
    count = fits.sum(-1, keepdims=True)
    return np.divide(fits, count, out=np.full(fits.shape, np.nan), where=count > 0)


def set_means(reference: Array, size: int) -> Array:
    """Mean reference of each set of `size` candidates: [P, C(N, size)]; NaN counts as 0, and no run has such sets."""
    return np.nan_to_num(reference)[:, sets(reference.shape[1], size)].mean(-1)


def few_sets(n_candidates: int, n: int, keeps: Sequence[int]) -> bool:
    """Whether the sets that a policy can reach are few enough to enumerate."""
    return n_candidates < 20 and max(comb(n_candidates, size) for size in (n, *keeps)) <= _MOST_SETS


def one_run(scores: Sequence[Array], n: int) -> bool:
    """Whether the outcome is deterministic: only one subset of `n`, and no ties within a prompt."""
    return n == scores[0].shape[1] and not any((np.diff(np.sort(values, axis=-1)) == 0).any() for values in scores)


def is_exact(scores: Sequence[Array], n: int, keeps: Sequence[int]) -> bool:
    """Whether `expected_selection` is exact."""
    return few_sets(scores[0].shape[1], n, keeps) or one_run(scores, n)


def expected_selection(scores: Sequence[Array], keeps: Sequence[int], reference: Array, n: int) -> Array:
    """Expected reference of the survivors when stage j keeps the `keeps[j]` best by `scores[j]`, from `n` candidates.

    Exact where `is_exact`; else the mean over 256 draws with a fixed seed.
    Returns float [P], NaN where fewer than `n` candidates are usable.
    """
    usable = np.isfinite(reference) & np.logical_and.reduce([np.isfinite(values) for values in scores])
    few = few_sets(usable.shape[1], n, keeps) and not one_run(scores, n)  # sampling a single run is faster, and exact
    widest = max(comb(usable.shape[1], size) for size in (n, *keeps)) * n if few else _DRAWS * usable.shape[1]
    expected = _exact if few else _sampled
    chunk = max(1, _CHUNK_CELLS // widest)
    parts = [slice(start, start + chunk) for start in range(0, len(reference), chunk)]
    return np.concatenate(
        [expected([values[part] for values in scores], keeps, reference[part], usable[part], n) for part in parts]
    )


def _exact(scores: Sequence[Array], keeps: Sequence[int], reference: Array, usable: NDArray[np.bool_], n: int) -> Array:
    values = set_means(reference, keeps[-1])
    for stage, alive, keep in reversed(list(zip(scores, (n, *keeps[:-1]), keeps, strict=True))):
        values = transition(stage, alive, keep).before(values)
    return np.asarray((values * start_weights(usable, n)).sum(-1))


def _sampled(
    scores: Sequence[Array], keeps: Sequence[int], reference: Array, usable: NDArray[np.bool_], n: int
) -> Array:
    rng = np.random.default_rng(0)
    n_prompts, n_candidates = usable.shape
    random = rng.random((n_prompts, 1 if one_run(scores, n) else _DRAWS, n_candidates))
    living = np.argsort(np.where(usable[:, None], random, np.inf), axis=-1)[..., :n]
    for stage, keep in zip(scores, keeps, strict=True):
        values = np.take_along_axis(np.broadcast_to(stage[:, None], random.shape), living, -1)
        order = np.lexsort((rng.random(values.shape), -values), axis=-1)[..., :keep]
        living = np.take_along_axis(living, order, -1)
    references = np.broadcast_to(np.nan_to_num(reference)[:, None], random.shape)
    means = np.take_along_axis(references, living, -1).mean((-1, -2))
    return np.where(usable.sum(-1) >= n, means, np.nan)


def expected_best(scores: Array, reference: Array, n: int) -> Array:
    """Expected reference of the best of `n` candidates by `scores`, in closed form from ranks, for any N.

    Returns float [P], NaN where fewer than `n` candidates are usable.

    >>> expected_best(np.array([[1.0, 2.0, 3.0]]), np.array([[0.0, 0.3, 0.9]]), 2).round(3)
    array([0.7])
    """
    usable = np.isfinite(scores) & np.isfinite(reference)
    n_candidates = scores.shape[1]
    ways = np.array([float(comb(count, n)) for count in range(n_candidates + 1)])
    ranked = np.sort(np.where(usable, scores, np.inf), axis=-1)
    below = np.stack([(ranked < scores[:, [c]]).sum(-1) for c in range(n_candidates)], axis=-1)
    up_to = np.stack([(ranked <= scores[:, [c]]).sum(-1) for c in range(n_candidates)], axis=-1)
    of_group = np.where(usable, (ways[up_to] - ways[below]) / np.maximum(up_to - below, 1), 0.0)
    total = ways[usable.sum(-1)]
    picked = (of_group * np.nan_to_num(reference)).sum(-1)
    return np.divide(picked, total, out=np.full(len(scores), np.nan), where=total > 0)
