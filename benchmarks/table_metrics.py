"""Measures from two tables of any experiment, scores and a reference: no bench, no model, no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..shards.scores import PROMPT
from .metrics.arrays import Array
from .metrics.caption_figures import separation_rows
from .metrics.measure import Measures, measure, yardstick
from .metrics.model_figures import OWN, ModelScores, Setting
from .metrics.rows import SeparationRow, Yardstick
from .results.result_file import EvaluationReport
from .score_tables.layout import Layout, by_caption, image_values
from .score_tables.table import REFERENCE, final_position, nothing_shared, read_score_table
from .table_metrics_config import MetricsConfig


@dataclass(frozen=True)
class OutsideReport:
    """report: as of an evaluation; yardstick: in words, the scores that final-image selection goes by."""

    report: EvaluationReport
    measures: Measures
    separation: tuple[SeparationRow, ...]
    yardstick: str

    def to_json(self) -> str:
        """The one object that `nbench metrics --json` prints: that of `nbench evaluate --json` plus fields."""
        more = {
            "final_position": self.report.steps,
            "yardstick": self.yardstick,
            "selection": [row.model_dump() for row in self.measures.selection],
            "summaries": [row.model_dump() for row in self.measures.summaries],
            "separation": [row.model_dump() for row in self.separation],
        }
        return json.dumps(json.loads(self.report.to_json()) | more)


def measure_tables(config: MetricsConfig) -> OutsideReport:
    """Every metric that score tables alone suffice for.

    Raises:
        NbenchError: a table that `read_score_table` refuses, a duplicate key, or no key in both tables.
    """
    return _report(config, *_arrays(config))  # the tables are freed before measuring starts


def _arrays(config: MetricsConfig) -> tuple[str, dict[str, ModelScores], dict[str, Array], int]:
    """The model's name, its scores by caption and position, the reference by its name, and the final position."""
    scores, reference = read_score_table(config.scores), read_score_table(config.reference, REFERENCE)
    final = final_position(scores, reference, config.final_position, "--final-position")
    reference = reference.finals(final, "--final-position")
    layout = Layout.grid([scores, reference])
    arrays = {kind: _scored(by_position) for kind, by_position in by_caption(scores, layout).items()}
    finals = image_values(reference, layout)
    if not any((np.isfinite(array) & np.isfinite(finals)).any() for array in arrays[PROMPT].values()):
        raise nothing_shared(scores, reference, layout.column)
    return scores.name, arrays, {reference.name: finals}, final


def _scored(by_position: ModelScores) -> ModelScores:
    """Only the positions with at least one score."""
    return {position: array for position, array in by_position.items() if np.isfinite(array).any()}


def _report(
    config: MetricsConfig, model: str, by_caption: Mapping[str, ModelScores], references: dict[str, Array], final: int
) -> OutsideReport:
    true = by_caption[PROMPT]
    (label, values), own = next(iter(references.items())), true.get(final)
    setting = Setting(final, config.calls_per_position, config.misaligned_below)
    measures = measure({model: true}, references, setting)
    mark = yardstick(references, label, own, config.misaligned_below)
    report = EvaluationReport(
        bench=config.scores.stem,
        n_prompts=len(values),
        n_candidates=values.shape[1],
        n_failed=0,
        steps=final,
        rows=tuple(measures.rows),
        comparisons=(),
        yardsticks={label: mark},
        files=(),
    )
    corrupted = {kind: scores for kind, scores in by_caption.items() if kind != PROMPT}
    return OutsideReport(report, measures, tuple(separation_rows(model, true, corrupted)), _in_words(mark, final))


def _in_words(mark: Yardstick, final: int) -> str:
    if mark.chooser == OWN:
        return f"final-image selection by the scores' own position {final}"
    if mark.chooser is None:
        return f"no final-image selection: the scores have no position {final}, and the reference is not clip"
    return f"final-image selection by {mark.chooser}"
