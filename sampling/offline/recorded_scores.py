"""Recorded scores and references as arrays, from a bench and an evaluation of it or from two tables alone."""

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
from ...shards.positions import describe_positions, parse_positions
from ...shards.reader import open_bench
from ...shards.scores import read_scores
from .config import ScoreSource

_DEFAULT_BENCH, _DEFAULT_REFERENCES = "data/noisy-genai-bench", ("vqascore", YARDSTICK)


@dataclass(frozen=True)
class Recorded:
    """One scorer's scores by position, and what became of the candidates: float [P, N] each, NaN where there is none.

    reference: of the final images, what counts; final: what final-image selection goes by, `yardstick` says what it is,
    and `note` what is to be known of it.
    calls_per_score: 1 where the scorer reads the x0 estimate; score_cost: of scoring a candidate once, in denoiser
    calls; 0 where that is not on record.
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
        """With the scores at the positions that `text` names (`all`: all there are) and no others.

        Raises:
            NbenchError: not understood, or one has no scores.
        """
        if text.strip() == "all":
            return self
        wanted = parse_positions(text, self.steps)
        return self.at_positions(wanted)

    def at_positions(self, positions: Sequence[int]) -> Recorded:
        """With the scores at `positions` and no others; NbenchError as for `at`."""
        return replace(self, scores={position: self.at(position) for position in positions})

    def whole(self) -> Recorded:
        """NaN throughout for each candidate that lacks a score, its reference or its final score."""
        known = np.isfinite(self.reference) & np.isfinite(self.final)
        for values in self.scores.values():
            known &= np.isfinite(values)
        return self._map(lambda values: np.where(known, values, np.nan))

    def of(self, prompts: np.ndarray) -> Recorded:
        """With these prompts alone: indices or bool [P]."""
        return self._map(lambda values: values[prompts])

    def _map(self, change: Callable[[Array], Array]) -> Recorded:
        scores = {position: change(values) for position, values in self.scores.items()}
        return replace(self, scores=scores, reference=change(self.reference), final=change(self.final))


def read_recorded(source: ScoreSource, positions: Sequence[int] | None = None) -> Recorded:
    """What a person names, at `positions`, or at all of them; see `from_bench` and `from_tables`."""
    if source.scores is not None and source.reference_table is not None:
        return from_tables(source.scores, source.reference_table, source.steps, positions)
    assert source.model is not None  # as `ScoreSource` makes sure
    bench = source.bench or _DEFAULT_BENCH
    return from_bench(bench, source.model, source.results, source.reference, positions, source.yardstick)


def from_bench(
    bench: str | Path,
    model: str,
    results: Path,
    reference: str | None = None,
    positions: Sequence[int] | None = None,
    yardstick: str | None = None,
) -> Recorded:
    """What `nbench evaluate` wrote of `model` under `results`, with the references of the bench.

    Args:
        reference: which of the bench's references counts; vqascore if there is one, else clip, else the first.
        positions: those to read; all if None.
        yardstick: the reference that final-image selection goes by; clip if None, or where there is no such one the
            model's own final scores.

    Raises:
        NbenchError: no such bench, scores or reference, or the scores or references are of another build.
    """
    found = open_bench(bench)
    path = results / found.name / f"{model}.parquet"
    if not path.exists():
        there = ", ".join(sorted(other.stem for other in path.parent.glob("*.parquet"))) or "none"
        raise NbenchError(
            f"no scores of {model} in {path.parent}: there are {there}; nbench evaluate --bench {bench} writes more"
        )
    labels, steps = list(found.references), found.info.steps
    name = reference or next((usual for usual in _DEFAULT_REFERENCES if usual in labels), (*labels, YARDSTICK)[0])
    by, note = checked_yardstick(yardstick, labels, found.location.url)
    truth = finished_table(found, name)
    chooser = None if note else (by, finished_table(found, by))
    scores = of_bench(read_scores(path), found, str(path), "evaluate it again")
    layout = Layout.of_bench(truth.prompts.unique().dictionary_decode(), found.info.candidates)
    joined = _join(model, scores, (name, truth), chooser, steps, layout, positions)
    cost = _score_cost(path.with_suffix(".json"), scores)
    return replace(joined, bench_fingerprint=found.info.fingerprint, score_cost=cost, note=note)


def from_tables(
    scores: Path, reference: Path, steps: int | None = None, positions: Sequence[int] | None = None
) -> Recorded:
    """Two tables: prompt_id, candidate, position, score; and prompt_id, candidate, score of the final images.

    Images that the reference does not have are left out. Final-image selection goes by the scores at the final
    position, if they have it, else by the reference.

    Args:
        steps: T of the runs; the last position of the two tables if None.
        positions: those to read; all if None.

    Raises:
        NbenchError: a table that `read_score_table` refuses, a key that is there twice, or no image in common.
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
    known = image_values(truth, layout)
    if chooser is not None:
        yardstick, final = chooser[0], image_values(chooser[1], layout)
    elif steps in by_position:
        final, yardstick = by_position[steps], f"{model} at {steps}"
    else:
        final, yardstick = known, f"{name} itself"
    for position in positions or ():
        if position not in by_position:
            raise _absent(position, model, sorted(by_position))
    if positions is not None:
        by_position = {position: by_position[position] for position in sorted({*positions, steps} & set(by_position))}
    if not any((np.isfinite(array) & np.isfinite(known)).any() for array in by_position.values()):
        raise nothing_shared(scores, truth, layout.column)
    calls = int(scores.metadata.get("calls_per_score") == 1)
    return Recorded(model, by_position, known, name, final, yardstick, steps, calls_per_score=calls)


def _absent(position: int, model: str, recorded: list[int]) -> NbenchError:
    return NbenchError(f"position {position} not in the scores of {model}: they have {describe_positions(recorded)}")


def _score_cost(result: Path, scores: ScoreTable) -> float:
    """What the evaluation beside a score table measured, in denoiser steps; 0 where it timed none."""
    if not result.exists():
        return 0.0
    found = read_result(result)
    same = found.model_fingerprint == scores.metadata.get("scorer_fingerprint")
    return (found.cost.steps_per_score or 0.0) if same and found.cost else 0.0
