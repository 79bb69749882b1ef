"""Scores and references to every figure of a result: one pass over models, positions and references."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np

from . import metrics
from .metrics import Array
from .results import Comparison, ResultRow, Yardstick
from .statistics import paired_difference

YARDSTICK = "clip"
"""The reference that final-image selection goes by: frozen CLIP on finished images, as in the paper."""

ModelScores = dict[int, Array]
"""Scores float [P, N] of one model by position; prompts in the order of the bench, NaN where there is none."""


def measure(scores: Mapping[str, ModelScores], references: Mapping[str, Array], steps: int) -> tuple[ResultRow, ...]:
    """Every metric of every model at every position against every reference (float [P, N], of the final images)."""
    return tuple(
        _measure_one(model, position, label, values, references, steps)
        for model, by_position in scores.items()
        for position, values in by_position.items()
        for label in references
    )


def _measure_one(
    model: str, position: int, label: str, values: Array, references: Mapping[str, Array], steps: int
) -> ResultRow:
    reference = references[label]
    picks = np.stack([metrics.best_of_n(values, reference), *_yardstick_picks(references, label)])
    whole = np.where(np.isfinite(picks).all(0), picks, np.nan)  # ratios of means need the same prompts in each
    selected, random, final = metrics.mean_over_prompts(whole.T)
    return ResultRow(
        model=model,
        position=position,
        reference=label,
        spearman=_mean(metrics.spearman(values, reference)),
        kendall=_mean(metrics.kendall(values, reference)),
        gap=_mean(metrics.best_worst_gap(values, reference)),
        best_of_n=_mean(picks[0]),
        retention=_known(metrics.retention(selected, final)),
        recovered_gain=_known(metrics.recovered_gain(selected, random, final)),
        cost_steps=metrics.cost_steps(values.shape[1], position, steps),
        n_scored=int((np.isfinite(values) & np.isfinite(reference)).sum()),
    )


def compare(scores: Mapping[str, ModelScores], references: Mapping[str, Array]) -> tuple[Comparison, ...]:
    """Paired differences of within-prompt Spearman between all models, later minus earlier, at common positions."""
    found = []
    for (other, theirs), (model, ours) in combinations(scores.items(), 2):
        common = [position for position in ours if position in theirs]
        cells = [(position, label) for label in references for position in common]
        if not cells:
            continue
        ours_agree, theirs_agree = (
            np.stack([metrics.spearman(side[position], references[label]) for position, label in cells], axis=1)
            for side in (ours, theirs)
        )
        intervals = zip(*paired_difference(ours_agree, theirs_agree), strict=True)
        for (position, label), interval in zip(cells, intervals, strict=True):
            difference, low, high = map(_known, interval)
            found.append(
                Comparison(
                    model=model,
                    other=other,
                    position=position,
                    reference=label,
                    difference=difference,
                    low=low,
                    high=high,
                )
            )
    return tuple(found)


def yardstick(references: Mapping[str, Array], label: str) -> Yardstick:
    """What a random pick and final-image selection reach on the reference `label`."""
    random, final = _yardstick_picks(references, label)
    return Yardstick(random=_mean(random), final=_mean(final))


def _yardstick_picks(references: Mapping[str, Array], label: str) -> tuple[Array, Array]:
    reference = references[label]
    chooser = references.get(YARDSTICK, np.full_like(reference, np.nan))
    return metrics.random_pick(reference), metrics.best_of_n(chooser, reference)


def _mean(values: Array) -> float | None:
    return _known(metrics.mean_over_prompts(values))


def _known(value: Array) -> float | None:
    return float(value) if np.isfinite(value) else None
