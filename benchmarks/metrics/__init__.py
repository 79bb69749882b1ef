"""Pure functions over float [P, N], by topic in the modules named here, and `METRICS`, what of them results hold."""

from __future__ import annotations

from .agreement import (
    best_worst_gap,
    kendall,
    pairwise_accuracy,
    pearson,
    regret,
    self_consistency,
    spearman,
    top1_hit,
)
from .arrays import Array, mean_over_prompts
from .catalogue import METRICS
from .retrieval import retrieval_recall
from .selection import (
    best_of_n,
    best_of_subsets,
    cost_steps,
    gain_area,
    random_pick,
    recovered_gain,
    retention,
    share_of_gain,
)
from .separation import (
    auroc,
    average_precision,
    detection_threshold,
    earliest,
    held_out_detection,
    preferred,
)

__all__ = [
    "METRICS",
    "Array",
    "auroc",
    "average_precision",
    "best_of_n",
    "best_of_subsets",
    "best_worst_gap",
    "cost_steps",
    "detection_threshold",
    "earliest",
    "gain_area",
    "held_out_detection",
    "kendall",
    "mean_over_prompts",
    "pairwise_accuracy",
    "pearson",
    "preferred",
    "random_pick",
    "recovered_gain",
    "regret",
    "retention",
    "retrieval_recall",
    "self_consistency",
    "share_of_gain",
    "spearman",
    "top1_hit",
]
