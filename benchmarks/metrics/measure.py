"""Scores and references to every figure of a result: models, positions and references, with intervals over prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations, product

import numpy as np

from .. import metrics
from ..results.result_file import Comparison, ResultRow, SelectionRow, SkillRow, Summary, Yardstick
from . import pooled
from .arrays import Array, at_once
from .model_figures import YARDSTICK, ModelScores, Part, Setting, final_chooser
from .prompt_values import ci, known
from .statistics import bootstrap_ci, holm, paired_difference, paired_test


@dataclass
class Measures:
    """What is told of some models."""

    rows: list[ResultRow] = field(default_factory=list)
    selection: list[SelectionRow] = field(default_factory=list)
    skills: list[SkillRow] = field(default_factory=list)
    summaries: list[Summary] = field(default_factory=list)

    def of(self, model: str) -> Measures:
        """What is told of one of them."""
        return Measures(
            [row for row in self.rows if row.model == model],
            [row for row in self.selection if row.model == model],
            [row for row in self.skills if row.model == model],
            [row for row in self.summaries if row.model == model],
        )


def measure(scores: Mapping[str, ModelScores], references: Mapping[str, Array], setting: Setting) -> Measures:
    """Every metric of every model at every position against every reference (float [P, N], of the final images)."""
    found = Measures()
    labels = list(references)
    for model, by_position in scores.items():
        parts = [Part(model, by_position, references, label, setting) for label in labels]
        cells = list(product(by_position, parts))
        found.rows += at_once(lambda cell: cell[1].row(cell[0]), cells)
        for position, part in cells:
            found.selection += part.selection(position)
        for part in parts:
            found.skills += part.skills()
            found.summaries.append(part.summary([row for row in found.rows if _of(row, model, part.label)]))
    return found


def compare(scores: Mapping[str, ModelScores], references: Mapping[str, Array]) -> tuple[Comparison, ...]:
    """Paired differences of within-prompt Spearman between all models, later minus earlier, at common positions."""
    cells, intervals, p_values = [], [], []
    for (other, theirs), (model, ours) in combinations(scores.items(), 2):
        common = [(position, label) for label in references for position in ours if position in theirs]
        if not common:
            continue
        first, second = (
            np.stack([metrics.spearman(side[position], references[label]) for position, label in common], axis=1)
            for side in (ours, theirs)
        )
        cells += [(model, other, *cell) for cell in common]
        intervals += list(zip(*paired_difference(first, second), strict=True))
        p_values += paired_test(first, second).tolist()
    corrected = holm(np.array(p_values))
    return tuple(
        Comparison(
            model=model,
            other=other,
            position=position,
            reference=label,
            difference=known(mean),
            low=known(low),
            high=known(high),
            p_value=known(p),
            p_holm=known(adjusted),
        )
        for (model, other, position, label), (mean, low, high), p, adjusted in zip(
            cells, intervals, p_values, corrected, strict=True
        )
    )


def yardstick(
    references: Mapping[str, Array],
    label: str,
    own: Array | None = None,
    misaligned_below: float | None = None,
    by: str = YARDSTICK,
) -> Yardstick:
    """What a random pick, final-image selection (by the reference `by`, else by `own`) and the oracle reach on
    `label`."""
    reference = references[label]
    scores, chooser = final_chooser(references, own, by)
    picks = [metrics.random_pick(reference), metrics.best_of_n(scores, reference)]
    interval = bootstrap_ci(np.stack([*picks, metrics.best_of_n(reference, reference)], axis=1))
    values = [known(value) for value in interval.mean]
    ends = [ci(low, high) for low, high in zip(interval.low, interval.high, strict=True)]
    return Yardstick(
        random=values[0],
        final=values[1],
        oracle=values[2],
        random_ci=ends[0],
        final_ci=ends[1],
        oracle_ci=ends[2],
        chooser=chooser,
        misaligned_below=known(pooled.misalignment_cut(reference, misaligned_below)),
    )


def _of(row: ResultRow, model: str, label: str) -> bool:
    return (row.model, row.reference) == (model, label)
