"""Recorded scores and references as arrays, from a bench and an evaluation of it or from two tables alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ...benchmarks.metrics.arrays import Array, scattered
from ...benchmarks.metrics.model_figures import YARDSTICK, checked_yardstick
from ...benchmarks.results.result_file import read_result
from ...errors import NbenchError, one_line
from ...shards.positions import describe_positions, parse_positions
from ...shards.reader import open_bench
from ...shards.references import finished_scores
from ...shards.scores import PROMPT, scores_metadata
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
    labels = list(found.references)
    name = reference or next((usual for usual in _DEFAULT_REFERENCES if usual in labels), (*labels, YARDSTICK)[0])
    by, note = checked_yardstick(yardstick, labels, found.location.url)
    truth = finished_scores(found, name)
    final = None if note else (by, _last(finished_scores(found, by)))
    scores = _read(path, None if positions is None else sorted({*positions, found.info.steps}))
    if scores_metadata(scores).get("bench_fingerprint") != found.info.fingerprint:
        raise NbenchError(f"{path} scores another build than {found.location.url}: evaluate it again")
    joined = _join(model, scores, (name, _last(truth)), final, found.info.steps, found.info.fingerprint)
    _check_positions(joined, positions, path)
    return replace(joined, score_cost=_score_cost(path.with_suffix(".json"), scores), note=note)


def from_tables(
    scores: Path, reference: Path, steps: int | None = None, positions: Sequence[int] | None = None
) -> Recorded:
    """Two Parquet tables: prompt_id, candidate, position, score; and prompt_id, candidate, score of the final images.

    Further columns are ignored, but that rows whose `caption` is not "prompt" are left out, and that of a reference
    with positions the last counts. Final-image selection goes by the scores at the final position, if they have it,
    else by the reference.

    Args:
        steps: T of the runs; the last position of the scores if None.
        positions: those to read; all if None.

    Raises:
        NbenchError: a table cannot be read, lacks a column, has a candidate twice, or they share no prompt.
    """
    last = int(np.max(_column(scores, "position"), initial=0)) if steps is None else steps
    wanted = None if positions is None else sorted({*positions, last})
    read = (reference.stem, _read(reference, None, final=True))
    joined = _join(scores.stem, _read(scores, wanted), read, None, last)
    _check_positions(joined, positions, scores)
    return joined


def _join(
    model: str,
    scores: pa.Table,
    reference: tuple[str, pa.Table],
    chooser: tuple[str, pa.Table] | None,
    steps: int,
    fingerprint: str | None = None,
) -> Recorded:
    name, truth = reference
    prompts = pc.unique(truth["prompt_id"].cast(pa.string()))
    candidates = np.unique(truth["candidate"].to_numpy())
    by_position = _grids(scores, prompts, candidates, f"the scores of {model}")
    [known] = _grids(truth, prompts, candidates, f"the reference {name}", one=True).values()
    if chooser is not None:
        yardstick, table = chooser
        [final] = _grids(table, prompts, candidates, f"the reference {yardstick}", one=True).values()
    elif steps in by_position:
        final, yardstick = by_position[steps], f"{model} at {steps}"
    else:
        final, yardstick = known, f"{name} itself"
    if not any((np.isfinite(values) & np.isfinite(known)).any() for values in by_position.values()):
        raise NbenchError(f"the scores of {model} and the reference {name} have no candidate in common")
    calls = int(scores_metadata(scores).get("calls_per_score") == 1)
    return Recorded(model, by_position, known, name, final, yardstick, steps, fingerprint, calls)


def _check_positions(joined: Recorded, positions: Sequence[int] | None, path: Path) -> None:
    """Refuse positions that the table at `path`, of which no others were read, does not have."""
    for position in positions or ():
        if position not in joined.scores:
            raise _absent(position, joined.model, np.unique(_column(path, "position")).tolist())


def _absent(position: int, model: str, recorded: list[int]) -> NbenchError:
    return NbenchError(f"position {position} not in the scores of {model}: they have {describe_positions(recorded)}")


def _score_cost(result: Path, scores: pa.Table) -> float:
    """What the evaluation beside a score table measured, in denoiser steps; 0 where it timed none."""
    if not result.exists():
        return 0.0
    found = read_result(result)
    same = found.model_fingerprint == scores_metadata(scores).get("scorer_fingerprint")
    return (found.cost.steps_per_score or 0.0) if same and found.cost else 0.0


def _grids(
    table: pa.Table, prompts: pa.Array, candidates: np.ndarray, place: str, one: bool = False
) -> dict[int, Array]:
    """Scores float [P, N] by position (0 where the table has none, or `one` is asked for)."""
    if "caption" in table.column_names:
        table = table.filter(pc.equal(table["caption"], PROMPT))
    rows = pc.index_in(table["prompt_id"].cast(pa.string()), prompts).fill_null(-1).to_numpy()
    numbers = table["candidate"].to_numpy()
    columns = np.searchsorted(candidates, numbers).clip(max=len(candidates) - 1)
    known = (rows >= 0) & (candidates[columns] == numbers)
    values = table["score"].cast(pa.float64()).to_numpy()
    whole = "position" in table.column_names and not one
    positions = table["position"].to_numpy() if whole else np.zeros(len(values), int)
    at, layer = np.unique(positions, return_inverse=True)
    shape = len(at), len(prompts), len(candidates)
    cells = np.ravel_multi_index((layer[known], rows[known], columns[known]), shape)
    arrays, twice = scattered(values[known], cells, shape)
    if len(twice):
        position, row, column = np.unravel_index(cells[twice[0]], shape)
        where = f" at position {at[position]}" if whole else ""
        raise NbenchError(f"{place} have prompt {prompts[int(row)]}, candidate {candidates[column]}{where} twice")
    return dict(zip(at.tolist(), arrays, strict=True))


def _read(path: Path, positions: Sequence[int] | None, final: bool = False) -> pa.Table:
    """The columns that count; `final`: the rows of the last position alone, if there are positions."""
    try:
        schema = pq.read_schema(path)
        wanted = [name for name in ("prompt_id", "candidate", "position", "score", "caption") if name in schema.names]
        keep = pc.field("position").isin(list(positions)) if positions is not None else None
        absent = [n for n in ("prompt_id", "candidate", "score", *(() if final else ("position",))) if n not in wanted]
        if absent:
            raise NbenchError(f"{path} has no column {', '.join(absent)}: it has {one_line(', '.join(schema.names))}")
        table = pq.read_table(path, columns=wanted, filters=keep)
        if final:
            table = _last(table)
        if not pa.types.is_integer(schema.field("candidate").type):
            raise NbenchError(f"{path} has candidates that are not whole numbers: number them")
    except (OSError, pa.ArrowException) as error:
        raise NbenchError(f"cannot read scores at {path}: {one_line(str(error).partition(chr(10))[0])}") from None
    if not len(table):
        raise NbenchError(f"{path} has no scores at the positions asked for")
    return table


def _last(table: pa.Table) -> pa.Table:
    if "position" not in table.column_names or not len(table):
        return table
    return table.filter(pc.equal(table["position"], pc.max(table["position"])))


def _column(path: Path, name: str) -> np.ndarray:
    try:
        return np.asarray(pq.read_table(path, columns=[name])[name].to_numpy())
    except (OSError, pa.ArrowException, KeyError) as error:
        raise NbenchError(f"cannot read {name} of {path}: {one_line(str(error).partition(chr(10))[0])}") from None
