"""Recorded scores and references as arrays, from an evaluated bench or from two tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...benchmarks.metrics.arrays import Array
from ...benchmarks.metrics.model_figures import YARDSTICK, checked_yardstick
from ...benchmarks.results.result_file import read_result
from ...benchmarks.score_tables.bench import finished_table, of_bench
from ...benchmarks.score_tables.layout import Layout, image_values, of_prompts
from ...benchmarks.score_tables.table import (
    REFERENCE,
    ScoreTable,
    final_position,
    nothing_shared,
    read_score_table,
)
from ...errors import NbenchError
from ...options import Place
from ...shards.positions import describe_positions, parse_positions
from ...shards.reader import open_bench
from ...shards.scores import read_scores
from .config import ScoreSource

DEFAULT_BENCH, _DEFAULT_REFERENCES = "data/noisy-genai-bench", ("vqascore", YARDSTICK)


@dataclass(frozen=True)
class Recorded:
    """One scorer's scores by position and the candidates' references: float [P, N] each, NaN where missing.

    reference: scores of the final images to measure against; final: scores used for final-image selection, named by
    `yardstick`; note: a message for the user about them.
    calls_per_score: 1 where the scorer reads the x0 estimate, L of a look-ahead, else 0; score_cost: cost of scoring a
    candidate once, in denoiser calls; 0 where it was not measured.
    """

    model: str
    scores: dict[int, Array]
    reference: Array
    reference_name: str
    final: Array
    yardstick: str
    steps: int
    bench_fingerprint: str | None = None
    calls_per_score: int = 0
    score_cost: float = 0.0
    note: str = ""

    def at(self, position: int) -> Array:
        """Scores at `position`.

        Raises:
            NbenchError: there are none.
        """
        if position not in self.scores:
            raise _absent(position, self.model, sorted(self.scores))
        return self.scores[position]

    def only(self, text: str) -> Recorded:
        """A copy with scores only at the positions in `text` (`all`: every position).

        Raises:
            NbenchError: `text` is not understood, or there are no scores at a position.
        """
        return self if text.strip() == "all" else self.at_positions(parse_positions(text, self.steps))

    def at_positions(self, positions: Sequence[int]) -> Recorded:
        """A copy with scores only at `positions`; raises NbenchError as `at` does."""
        return replace(self, scores={position: self.at(position) for position in positions})

    def selectable(self, calls_per_score: int) -> Recorded:
        """A copy with scores only where a live run can choose: not at position 0, which is noise, unless a score costs
        a call there or there are no others."""
        later = [position for position in self.scores if position]
        return self.at_positions(later) if later and not calls_per_score else self

    def whole(self) -> Recorded:
        """A copy with NaN in every array for each candidate that lacks a score, its reference or its final score."""
        complete = np.isfinite(self.reference) & np.isfinite(self.final)
        for values in self.scores.values():
            complete &= np.isfinite(values)
        return self._map(lambda values: np.where(complete, values, np.nan))

    def of(self, prompts: np.ndarray) -> Recorded:
        """A copy with these prompts only: indices or bool [P]."""
        return self._map(lambda values: values[prompts])

    def _map(self, change: Callable[[Array], Array]) -> Recorded:
        scores = {position: change(values) for position, values in self.scores.items()}
        return replace(self, scores=scores, reference=change(self.reference), final=change(self.final))


def read_recorded(source: ScoreSource, positions: Sequence[int] | None = None) -> Recorded:
    """Read the scores of `source`, at `positions` or at all of them; see `from_bench` and `from_tables`."""
    if source.scores is not None and source.reference_table is not None:
        return from_tables(source.scores, source.reference_table, source.steps, positions)
    assert source.model is not None  # ScoreSource checks this
    bench = source.bench or DEFAULT_BENCH
    return from_bench(bench, source.model, source.results, source.reference, positions, source.yardstick)


def from_bench(
    bench: Place,
    model: str,
    results: Path,
    reference: str | None = None,
    positions: Sequence[int] | None = None,
    yardstick: str | None = None,
) -> Recorded:
    """The scores that `nbench evaluate` wrote for `model` under `results`, with the references of the bench.

    Args:
        reference: the bench's reference to measure against; None: vqascore, else clip, else the first.
        positions: positions to read; None: all.
        yardstick: the reference used for final-image selection; None: clip, or the model's own final scores if the
            bench has no clip reference.

    Raises:
        NbenchError: no such bench, scores or reference, or the scores or references are from another build.
    """
    opened = open_bench(bench)
    path = results / opened.name / f"{model}.parquet"
    if not path.exists():
        available = ", ".join(sorted(other.stem for other in path.parent.glob("*.parquet"))) or "none"
        raise NbenchError(
            f"no scores of {model} in {path.parent}: available: {available}; nbench evaluate --bench {bench} adds more"
        )
    labels, steps = list(opened.references), opened.info.steps
    name = reference or next((label for label in _DEFAULT_REFERENCES if label in labels), (*labels, YARDSTICK)[0])
    by, note = checked_yardstick(yardstick, labels, opened.location.url)
    truth = finished_table(opened, name)
    chooser = None if note else (by, finished_table(opened, by))
    scores = of_bench(read_scores(path), opened, str(path), "evaluate it again")
    layout = Layout.of_bench(truth.prompts.unique().dictionary_decode(), opened.info.candidates)
    recorded = _join(model, scores, (name, truth), chooser, steps, layout, positions)
    cost = _score_cost(path.with_suffix(".json"), scores)
    return replace(recorded, bench_fingerprint=opened.info.fingerprint, score_cost=cost, note=note)


def from_tables(
    scores: Path, reference: Path, steps: int | None = None, positions: Sequence[int] | None = None
) -> Recorded:
    """Read two tables: prompt_id, candidate, position, score; and prompt_id, candidate, score of the final images.

    Images without a reference are left out. Final-image selection uses the scores at the final position if the table
    has them, else the reference.

    Args:
        steps: T of the runs; None: the last position of the two tables.
        positions: positions to read; None: all.

    Raises:
        NbenchError: a table that `read_score_table` refuses, a duplicate key, or no image in common.
    """
    table, truth = read_score_table(scores), read_score_table(reference, REFERENCE)
    last = final_position(table, truth, steps, "--steps")
    truth = truth.finals(last, "--steps")
    layout = Layout.grid([table, truth], of=[truth])
    return _join(scores.stem, table, (reference.stem, truth), None, last, layout, positions)


def _join(
    model: str,
    scores: ScoreTable,
    reference: tuple[str, ScoreTable],
    chooser: tuple[str, ScoreTable] | None,
    steps: int,
    layout: Layout,
    positions: Sequence[int] | None,
) -> Recorded:
    name, truth = reference
    by_position = of_prompts(scores, layout)
    references = image_values(truth, layout)
    if chooser is not None:
        yardstick, final = chooser[0], image_values(chooser[1], layout)
    elif steps in by_position:
        final, yardstick = by_position[steps], f"{model} at {steps}"
    else:
        final, yardstick = references, f"{name} itself"
    for position in positions or ():
        if position not in by_position:
            raise _absent(position, model, sorted(by_position))
    if positions is not None:
        by_position = {position: by_position[position] for position in sorted({*positions, steps} & set(by_position))}
    if not any((np.isfinite(array) & np.isfinite(references)).any() for array in by_position.values()):
        raise nothing_shared(scores, truth, layout.column)
    calls = int(scores.metadata.get("calls_per_score") or 0)
    return Recorded(model, by_position, references, name, final, yardstick, steps, calls_per_score=calls)


def _absent(position: int, model: str, recorded: list[int]) -> NbenchError:
    return NbenchError(f"position {position} not in the scores of {model}: they have {describe_positions(recorded)}")


def _score_cost(result: Path, scores: ScoreTable) -> float:
    """Measured cost per score, in denoiser steps, from the result file beside a score table; 0 where not measured."""
    if not result.exists():
        return 0.0
    evaluation = read_result(result)
    same = evaluation.model_fingerprint == scores.metadata.get("scorer_fingerprint")
    return (evaluation.cost.steps_per_score or 0.0) if same and evaluation.cost else 0.0
