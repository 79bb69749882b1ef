"""Separation of matching from misaligned: ranking measures, an alarm threshold, and how early a level is reached.

`scores` and `positive` are [R, M]: each row is measured on its own; pooled, all candidates are one long row. NaN scores
are left out. Conventions: arrays.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from .arrays import Array, ordered, ratio, standing
from .declaration import SHARE, Cell, Figure, Metric, OfMeans, Pooled

Labels = NDArray[np.bool_]


def auroc(scores: Array, positive: Labels) -> Array:
    """Chance that a positive scores above a negative, equal scores counted half (Mann-Whitney U over its maximum).

    Returns float [R] in 0..1, 0.5 for constant scores; NaN where there is no positive or no negative.

    >>> auroc(np.array([[0.9, 0.4, 0.4, 0.1]]), np.array([[True, True, False, False]]))
    array([0.875])
    """
    finite = np.isfinite(scores)
    place = standing(scores)
    hits, n = (positive & finite).sum(-1), finite.sum(-1)
    ranks = np.where(positive & finite, place.below + (place.level + 1) / 2, 0.0).sum(-1)
    return ratio(ranks - hits * (hits + 1) / 2, hits * (n - hits))


def average_precision(scores: Array, positive: Labels) -> Array:
    """Mean over the positives of the precision among all that score at least as high; no interpolation.

    Equal scores count together, so their order does not matter. Returns float [R] in 0..1; NaN without positives.

    >>> average_precision(np.array([[0.9, 0.4, 0.4]]), np.array([[True, True, False]])).round(3)
    array([0.833])
    """
    finite = np.isfinite(scores)
    order, start, _ = ordered(np.where(finite, scores, np.nan))
    hit = np.take_along_axis(positive & finite, order, -1)
    before: NDArray[np.intp] = np.cumsum(hit, axis=-1) - hit
    hits = hit.sum(-1)
    true_positives = hits[:, None] - np.take_along_axis(before, start, -1)  # positives that score at least as high
    predicted = finite.sum(-1, keepdims=True) - start
    return ratio(np.where(hit, ratio(true_positives, predicted), 0.0).sum(-1), hits)


def preferred(true: Array, corrupted: Array) -> Array:
    """How often a latent scores higher with its true caption than with a corrupted one, ties counted half.

    Both float [P, M], of the same latents. Returns float [P] in 0..1; NaN where no latent has both.

    >>> preferred(np.array([[0.9, 0.5]]), np.array([[0.1, 0.5]]))
    array([0.75])
    """
    difference = true - corrupted
    finite = np.isfinite(difference)
    return ratio(np.where(finite, (np.sign(np.where(finite, difference, 0.0)) + 1) / 2, 0.0).sum(-1), finite.sum(-1))


def detection_threshold(scores: Array, misaligned: Labels) -> float:
    """The lowest score with the highest F1 of an alarm at or below it; any shape.

    NaN where nothing is misaligned, or there are no scores.

    >>> detection_threshold(np.array([0.1, 0.2, 0.3, 0.4]), np.array([True, True, False, False]))
    0.2
    """
    finite = np.isfinite(scores)
    values, hit = scores[finite], misaligned[finite]
    if not hit.any():
        return float("nan")
    order = np.argsort(values)
    values, true_positives = values[order], np.cumsum(hit[order])
    last = np.append(values[1:] != values[:-1], True)
    f1 = 2 * true_positives / (np.arange(1, len(values) + 1) + true_positives[-1])
    return float(values[last][np.argmax(f1[last])])


def held_out_detection(scores: Array, misaligned: Labels, folds: int = 2, seed: int = 0) -> Array:
    """Counts [P, 3] per prompt: right alarms, alarms, and misaligned candidates.

    The threshold of a prompt is calibrated on the prompts outside its fold, so precision (right / alarms) and recall
    (right / misaligned) are held out. NaN where that threshold is NaN.

    >>> counts = held_out_detection(np.array([[0.1, 0.9], [0.2, 0.8]]), np.array([[True, False], [True, False]]))
    >>> counts[0].tolist()
    [1.0, 1.0, 1.0]
    """
    finite = np.isfinite(scores)
    fold = np.random.default_rng(seed).permutation(len(scores)) % folds
    limit = np.array([detection_threshold(scores[fold != k], misaligned[fold != k]) for k in range(folds)])[fold]
    alarm = finite & (scores <= limit[:, None])
    counts = np.stack([alarm & misaligned, alarm, finite & misaligned]).sum(-1).T.astype(float)
    return np.where(np.isfinite(limit)[:, None], counts, np.nan)


def earliest(positions: Sequence[int], values: Sequence[float | None], level: float) -> int | None:
    """The first position with a value of at least `level`; None if there is none.

    >>> earliest([0, 10, 20], [None, 0.4, 0.6], 0.5)
    20
    """
    reached = [k for k, value in zip(positions, values, strict=True) if value is not None and value >= level]
    return min(reached, default=None)


def misalignment_cut(reference: Array, below: float | None = None) -> float:
    """The reference below which a candidate counts as misaligned: `below`, else the median; NaN without any reference.

    >>> misalignment_cut(np.array([[0.1, 0.2, 0.6]]))
    0.2
    """
    if below is not None:
        return below
    values = reference[np.isfinite(reference)]
    return float(np.median(values)) if len(values) else float("nan")


def _detection(cell: Cell) -> Array:
    """Counts [3, P]: right alarms, alarms, misaligned candidates."""
    return held_out_detection(cell.scores, cell.reference < cell.misaligned_below).T


def _detected(row: int) -> Callable[[Cell], Array]:
    return lambda cell: cell.once(_detection)[row]


METRICS = (
    Metric(
        "misaligned_auroc",
        "AUROC misaligned",
        "chance that a candidate whose reference is below `misaligned_below` (default: the median) scores lower than "
        "one at or above it",
        "0..1, .5 is chance (constant scores)",
        "all or none misaligned",
        bounds=SHARE,
        estimate=Pooled(lambda cell: lambda scores, reference: auroc(-scores, reference < cell.misaligned_below)),
    ),
    Metric(
        "misaligned_precision",
        "precision misaligned",
        "held-out precision of the alarm at `misaligned_threshold`: each half of the prompts by the threshold of the "
        "other half",
        "0..1",
        "one prompt, or no alarms",
        bounds=SHARE,
        estimate=OfMeans(ratio, right=_detected(0), alarms=_detected(1)),
    ),
    Metric(
        "misaligned_recall",
        "recall misaligned",
        "held-out recall of the same alarm",
        "0..1",
        "one prompt",
        bounds=SHARE,
        estimate=OfMeans(ratio, right=_detected(0), misaligned=_detected(2)),
    ),
)

AUROC = Figure(
    "auroc",
    "AUROC",
    "true against corrupted captions, pooled, per kind and for `all`",
    "0..1, .5 is chance",
    "no true or no corrupted caption",
    bounds=SHARE,
)
AVERAGE_PRECISION = Figure(
    "average_precision",
    "average precision",
    "true against corrupted captions, pooled, per kind and for `all`",
    "0..1, chance is the share of true captions",
    "the same",
    bounds=SHARE,
)
PREFERENCE = Figure(
    "pairwise_accuracy",
    "pairwise accuracy",
    "how often a latent scores higher with its true caption",
    "0..1, .5 is chance",
    "no latent has both",
    bounds=SHARE,
)
