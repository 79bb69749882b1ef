"""From scores and references to every figure of a result, with intervals over prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations, product

import numpy as np

from .agreement import spearman
from .arrays import Array, at_once
from .catalogue import METRICS
from .declaration import CI, or_none
from .model_figures import YARDSTICK, ModelScores, Part, Setting, final_chooser
from .rows import Comparison, ResultRow, SelectionRow, SkillRow, Summary, Yardstick
from .selection import best_of_n, random_pick
from .separation import misalignment_cut
from .statistics import bootstrap_ci, holm, paired_difference, paired_test


@dataclass
class Measures:
    """The figures of some models."""

    rows: list[ResultRow] = field(default_factory=list)
    selection: list[SelectionRow] = field(default_factory=list)
    skills: list[SkillRow] = field(default_factory=list)
    summaries: list[Summary] = field(default_factory=list)

    def of(self, model: str) -> Measures:
        """The figures of one model."""
        return Measures(
            [row for row in self.rows if row.model == model],
            [row for row in self.selection if row.model == model],
            [row for row in self.skills if row.model == model],
            [row for row in self.summaries if row.model == model],
        )


def measure(scores: Mapping[str, ModelScores], references: Mapping[str, Array], setting: Setting) -> Measures:
    """Every metric of every model at every position against every reference (float [P, N], of the final images)."""
    measures = Measures()
    labels = list(references)
    for model, by_position in scores.items():
        parts = [Part(model, by_position, references, label, setting) for label in labels]
        cells = list(product(by_position, parts))
        measures.rows += at_once(lambda cell: cell[1].row(cell[0]), cells)
        for position, part in cells:
            measures.selection += part.selection(position)
        for part in parts:
            measures.skills += part.skills()
            measures.summaries.append(part.summary([row for row in measures.rows if _of(row, model, part.label)]))
    return measures


def compare(scores: Mapping[str, ModelScores], references: Mapping[str, Array]) -> tuple[Comparison, ...]:
    """Paired differences of within-prompt Spearman between all models, later minus earlier, at common positions."""
    cells, intervals, p_values = [], [], []
    for (other, theirs), (model, ours) in combinations(scores.items(), 2):
        common = [(position, label) for label in references for position in ours if position in theirs]
        if not common:
            continue
        first, second = (
            np.stack([spearman(side[position], references[label]) for position, label in common], axis=1)
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
            difference=or_none(mean),
            low=or_none(low),
            high=or_none(high),
            p_value=or_none(p),
            p_holm=or_none(adjusted),
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
    """What a random pick, final-image selection (by the reference `by`, else by `own`) and the oracle reach on the
    reference `label`."""
    reference = references[label]
    scores, chooser = final_chooser(references, own, by)
    picks = [random_pick(reference), best_of_n(scores, reference)]
    intervals = bootstrap_ci(np.stack([*picks, best_of_n(reference, reference)], axis=1))
    figures: dict[str, float | CI] = {}
    for name, *ends in zip(("random", "final", "oracle"), *intervals, strict=True):
        figures |= replace(METRICS["best_of_n"], name=name).fields(*ends)
    cut = or_none(misalignment_cut(reference, misaligned_below))
    return Yardstick.model_validate(figures | {"chooser": chooser, "misaligned_below": cut})


def _of(row: ResultRow, model: str, label: str) -> bool:
    return (row.model, row.reference) == (model, label)
