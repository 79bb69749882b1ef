"""Figures of all candidates pooled, across prompts: global correlations, and telling the misaligned."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .agreement import kendall, pairwise_accuracy, pearson, spearman
from .arrays import Array
from .separation import auroc, detection_threshold
from .statistics import grouped_ci

_PAIRS = 2**18  # drawn of all candidates': the share of them is good to 0.001


def misalignment_cut(reference: Array, below: float | None = None) -> float:
    """The reference below which a candidate counts as misaligned: `below`, else the median; NaN if there is none.

    >>> misalignment_cut(np.array([[0.1, 0.2, 0.6]]))
    0.2
    """
    if below is not None:
        return below
    values = reference[np.isfinite(reference)]
    return float(np.median(values)) if len(values) else float("nan")


def pooled_figures(scores: Array, reference: Array, cut: float) -> dict[str, float | tuple[float, float] | None]:
    """Global agreement, and AUROC of `reference < cut` with the best threshold, as fields of a result row.

    Both float [P, N], NaN at the same places.
    """
    flat = scores.reshape(1, -1), reference.reshape(1, -1)
    _, tie = pairwise_accuracy(*flat, max_pairs=_PAIRS)

    def ordered_alike(x: Array, y: Array) -> Array:
        return pairwise_accuracy(x, y, tie, _PAIRS)[0]

    def told_apart(x: Array, y: Array) -> Array:
        return auroc(-x, y < cut)

    statistics: dict[str, Callable[[Array, Array], Array]] = {
        "spearman_global": spearman,
        "kendall_global": kendall,
        "pearson_global": pearson,
        "pairwise_accuracy_global": ordered_alike,
        "misaligned_auroc": told_apart,
    }
    found: dict[str, float | tuple[float, float] | None] = {}
    for name, statistic in statistics.items():
        value, low, high = (float(part[0]) for part in grouped_ci(statistic, scores, reference))
        found[name] = value if np.isfinite(value) else None
        found[f"{name}_ci"] = (low, high) if np.isfinite(low) and np.isfinite(high) else None
    threshold = detection_threshold(scores, reference < cut)
    found["misaligned_threshold"] = threshold if np.isfinite(threshold) else None
    return found
