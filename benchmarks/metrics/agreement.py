"""Agreement of scores with a reference per row of candidates: correlations, ordered pairs, whether the best is picked.

Within prompts, a row is a prompt. Pooled, all candidates are one long row. Conventions: arrays.py.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from .arrays import Array, Indices, highest, mean_over_prompts, paired, ratio, standing
from .declaration import CORRELATION, SHARE, Cell, Mean, Metric, Pooled
from .selection import best_of_n

MAX_PAIRS = 2**20
"""The most pairs `pairwise_accuracy` counts; of more, it draws this many."""

POOLED_PAIRS = 2**18
"""Pairs drawn from all candidates pooled: the standard error of a share is then 0.001."""

_LONG_ROW = 512  # above this length scipy, in n log n, is faster than counting all pairs in numpy
_BLOCK_PAIRS = 2**21


def spearman(scores: Array, reference: Array) -> Array:
    """Spearman's rank correlation within each prompt, ties at their average rank.

    Returns float [P] in -1..1; NaN where fewer than two candidates count or either side is constant.

    >>> spearman(np.array([[1.0, 2.0, 3.0]]), np.array([[0.1, 0.2, 0.9]]))
    array([1.])
    """
    places = [standing(values) for values in paired(scores, reference)]
    x, y = ((place.below - place.above).astype(float) for place in places)  # centred ranks, doubled
    return ratio((x * y).sum(-1), np.sqrt((x * x).sum(-1) * (y * y).sum(-1)))


def kendall(scores: Array, reference: Array) -> Array:
    """Kendall's tau-b within each prompt.

    Returns float [P] in -1..1; NaN where fewer than two candidates count or either side is constant.

    >>> kendall(np.array([[1.0, 2.0, 3.0]]), np.array([[0.1, 0.9, 0.2]])).round(3)
    array([0.333])
    """
    x, y = paired(scores, reference)
    n_prompts, n = x.shape
    if n > _LONG_ROW:
        return np.array([_kendall_of_row(*row) for row in zip(x, y, strict=True)])
    untied = [(place.below + place.above).sum(-1) / 2 for place in map(standing, (x, y))]
    i, j = np.triu_indices(n, 1)
    block = max(1, _BLOCK_PAIRS // max(1, len(i)))
    concord = np.zeros(n_prompts)
    for start in range(0, n_prompts, block):
        rows = slice(start, start + block)
        concord[rows] = (_order(x[rows], i, j) * _order(y[rows], i, j)).sum(-1, dtype=np.int64)
    return ratio(concord, np.sqrt(untied[0] * untied[1]))


def pearson(scores: Array, reference: Array) -> Array:
    """Pearson's correlation within each prompt.

    Returns float [P] in -1..1; NaN where fewer than two candidates count or either side is constant.

    >>> pearson(np.array([[1.0, 2.0, 3.0]]), np.array([[0.1, 0.2, 0.3]])).round(9)
    array([1.])
    """
    x, y = (_centred(values) for values in paired(scores, reference))
    return ratio((x * y).sum(-1), np.sqrt((x * x).sum(-1) * (y * y).sum(-1))).clip(-1, 1)


def pairwise_accuracy(
    scores: Array, reference: Array, tie_threshold: float | None = None, max_pairs: int | None = MAX_PAIRS
) -> tuple[Array, float]:
    """Share of a prompt's pairs of candidates that the scores order, or tie, as the reference does.

    acc_eq of Deutsch et al. 2023, "Ties Matter" (arXiv 2305.14324): two scores tie when they differ by at most a
    threshold. The default is calibrated: the smallest threshold with the highest mean over prompts. Of more than
    `max_pairs` pairs (rows times pairs per row) that many are drawn, by a fixed seed.

    Returns float [P] in 0..1, NaN where no pair counts, and the threshold (NaN where there is no pair at all).

    >>> pairwise_accuracy(np.array([[0.5, 0.52, 0.9]]), np.array([[1.0, 1.0, 2.0]]))[0]
    array([1.])
    """
    x, y = paired(scores, reference)
    i, j = _pairs(len(x), x.shape[1], max_pairs)
    distance = np.abs(x[:, i] - x[:, j])
    truth = _order(y, i, j)
    finite = np.isfinite(distance)
    tied = (truth == 0) & finite
    right = (_order(x, i, j) == truth) & (truth != 0)
    pairs = finite.sum(-1)
    if tie_threshold is None:
        weight = np.broadcast_to(ratio(np.ones(len(x)), pairs)[:, None], finite.shape)[finite]
        tie_threshold = _best_threshold(distance[finite], weight * (tied[finite].astype(float) - right[finite]))
    return ratio(np.where(distance <= tie_threshold, tied, right).sum(-1), pairs), tie_threshold


def top1_hit(scores: Array, reference: Array) -> Array:
    """Chance that the candidate that the scores pick is one that the reference ranks best.

    Returns float [P] in 0..1, equal scores drawn fairly; NaN where no candidate counts.

    >>> top1_hit(np.array([[0.3, 0.1, 0.3]]), np.array([[0.9, 0.5, 0.1]]))
    array([0.5])
    """
    scores, reference = paired(scores, reference)
    return best_of_n(scores, (reference == highest(reference)[:, None]).astype(float))


def regret(scores: Array, reference: Array) -> Array:
    """Reference of the best candidate minus that of the candidate that the scores pick: float [P], at least 0.

    >>> regret(np.array([[0.1, 0.3]]), np.array([[0.75, 0.5]]))
    array([0.25])
    """
    scores, reference = paired(scores, reference)
    return highest(reference) - best_of_n(scores, reference)


def self_consistency(scores: Array, final: Array) -> Array:
    """Spearman's correlation, within each prompt, of a scorer's scores with its own at the final position.

    >>> self_consistency(np.array([[0.1, 0.3]]), np.array([[0.3, 0.1]]))
    array([-1.])
    """
    return spearman(scores, final)


def best_worst_gap(scores: Array, reference: Array) -> Array:
    """Score of the candidate that the reference ranks best minus that of the one it ranks worst (ties averaged).

    Returns float [P]; NaN where the reference is constant.

    >>> best_worst_gap(np.array([[0.3, 0.1, 0.2]]), np.array([[0.9, 0.5, 0.1]])).round(3)
    array([0.1])
    """
    scores, reference = paired(scores, reference)
    gap = best_of_n(reference, scores) - best_of_n(-reference, scores)
    return np.where(highest(reference) > -highest(-reference), gap, np.nan)


def _kendall_of_row(x: Array, y: Array) -> float:
    finite = np.isfinite(x)
    x, y = x[finite], y[finite]
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(stats.kendalltau(x, y).statistic)


def _order(values: Array, i: Indices, j: Indices) -> NDArray[np.int8]:
    """Sign of value i minus value j for each pair, [P, pairs]; 0 where either is NaN."""
    left, right = values[:, i], values[:, j]
    signs: NDArray[np.int8] = (left > right).view(np.int8) - (left < right).view(np.int8)
    return signs


def _pairs(n_prompts: int, n: int, max_pairs: int | None) -> tuple[Indices, Indices]:
    if max_pairs is None or n_prompts * n * (n - 1) // 2 <= max_pairs:
        i, j = np.triu_indices(n, 1)
        return i, j
    rng = np.random.default_rng(0)
    i = rng.integers(n, size=max(1, max_pairs // n_prompts))
    return i, (i + rng.integers(1, n, size=len(i))) % n


def _best_threshold(distance: Array, gain: Array) -> float:
    """The smallest threshold, 0 or one of the distances, with the largest sum of the gains of the ties up to it."""
    if not len(distance):
        return float("nan")
    order = np.argsort(distance)
    distance, total = distance[order], np.cumsum(gain[order])
    last = np.append(distance[1:] != distance[:-1], True)
    thresholds, totals = distance[last], total[last]
    if thresholds[0] > 0:
        thresholds, totals = np.append(0.0, thresholds), np.append(0.0, totals)
    return float(thresholds[np.argmax(totals > totals.max() - 1e-9)])


def _centred(values: Array) -> Array:
    """Deviations from the mean of each row as shares of the largest, exactly 0 in a constant row and for NaN."""
    finite = np.isfinite(values)
    span = highest(values) + highest(-values)
    middle = mean_over_prompts(values.T)[:, None]
    centred = np.where(finite & (span > 0)[:, None], values - middle, 0.0)
    return centred / np.where(span > 0, span, 1.0)[:, None]


def calibrated_pairs(cell: Cell) -> tuple[Array, float]:
    """Pairwise accuracy within prompts, and its tie threshold."""
    return pairwise_accuracy(cell.scores, cell.reference)


def _self_consistency(cell: Cell) -> Array:
    if cell.own_final is None:
        return np.full(len(cell.scores), np.nan)
    return self_consistency(cell.all_scores, cell.own_final)


def _pooled_pairs(cell: Cell) -> Callable[[Array, Array], Array]:
    _, tie = pairwise_accuracy(cell.scores.reshape(1, -1), cell.reference.reshape(1, -1), max_pairs=POOLED_PAIRS)
    return lambda scores, reference: pairwise_accuracy(scores, reference, tie, POOLED_PAIRS)[0]


def _within(function: Callable[[Array, Array], Array]) -> Mean:
    return Mean(lambda cell: function(cell.scores, cell.reference))


def _pooled(function: Callable[[Array, Array], Array]) -> Pooled:
    return Pooled(lambda cell: function)


_TOO_FEW = "fewer than 2 candidates"
_ONE_SIDE = f"{_TOO_FEW}, or either side constant"

METRICS = (
    Metric(
        "spearman",
        "Spearman",
        "rank correlation within a prompt, mean over prompts",
        "-1..1, 0 is chance",
        _ONE_SIDE,
        bounds=CORRELATION,
        core=True,
        estimate=_within(spearman),
    ),
    Metric(
        "kendall",
        "Kendall",
        "tau-b within a prompt, mean over prompts",
        "-1..1",
        "the same",
        bounds=CORRELATION,
        estimate=_within(kendall),
    ),
    Metric(
        "pearson",
        "Pearson",
        "linear correlation within a prompt, mean over prompts",
        "-1..1",
        "the same",
        bounds=CORRELATION,
        estimate=_within(pearson),
    ),
    Metric(
        "pairwise_accuracy",
        "pairwise accuracy",
        "share of a prompt's pairs that the scores order or tie as the reference does; two scores tie within "
        "`tie_threshold`, one for all prompts, chosen for the highest mean: Deutsch et al. 2023, "
        "[arXiv 2305.14324](https://arxiv.org/abs/2305.14324)",
        "0..1",
        _TOO_FEW,
        bounds=SHARE,
        estimate=Mean(lambda cell: cell.once(calibrated_pairs)[0]),
    ),
    Metric(
        "top1",
        "top-1",
        "chance that the pick is one that the reference ranks best",
        "0..1",
        "no candidate",
        bounds=SHARE,
        estimate=_within(top1_hit),
    ),
    Metric(
        "regret",
        "regret",
        "reference of the best minus that of the pick",
        "0 or more",
        "no candidate",
        bounds=(0, np.inf),
        higher_is_better=False,
        estimate=_within(regret),
    ),
    Metric(
        "gap",
        "gap",
        "score of the candidate that the reference ranks best minus that of its worst, in the scorer's units",
        "any",
        "reference constant",
        estimate=_within(best_worst_gap),
    ),
    Metric(
        "self_consistency",
        "self-consistency",
        "Spearman of a model's scores with its own at the final position",
        "-1..1",
        "as `spearman`, or no final scores",
        bounds=CORRELATION,
        estimate=Mean(_self_consistency),
    ),
    *(
        Metric(
            f"{metric}_global",
            f"{heading}, pooled",
            f"`{metric}` of all candidates pooled",
            words,
            "as above",
            bounds=bounds,
            estimate=estimate,
        )
        for metric, heading, words, bounds, estimate in (
            ("spearman", "Spearman", "-1..1", CORRELATION, _pooled(spearman)),
            ("kendall", "Kendall", "-1..1", CORRELATION, _pooled(kendall)),
            ("pearson", "Pearson", "-1..1", CORRELATION, _pooled(pearson)),
            ("pairwise_accuracy", "pairwise accuracy", "0..1", SHARE, Pooled(_pooled_pairs)),
        )
    ),
)
