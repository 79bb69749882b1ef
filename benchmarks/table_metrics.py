"""Scores and a reference as tables of anyone's experiment to measures: no bench, no model, no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..errors import NbenchError, one_line
from ..shards.scores import PROMPT, scores_metadata
from .metrics.arrays import Array, scattered
from .metrics.caption_figures import separation_rows
from .metrics.measure import Measures, measure, yardstick
from .metrics.model_figures import OWN, ModelScores, Setting
from .metrics.rows import SeparationRow, Yardstick
from .results.result_file import EvaluationReport
from .table_metrics_config import MetricsConfig

_MAX_CELLS = 2**27
Codes = NDArray[np.int64]


@dataclass(frozen=True)
class OutsideReport:
    """report: as of an evaluation; yardstick: what final-image selection goes by, in words."""

    report: EvaluationReport
    measures: Measures
    separation: tuple[SeparationRow, ...]
    yardstick: str

    def to_json(self) -> str:
        """The one object that `nbench metrics --json` prints: that of `nbench evaluate --json`, and more."""
        more = {
            "final_position": self.report.steps,
            "yardstick": self.yardstick,
            "selection": [row.model_dump() for row in self.measures.selection],
            "summaries": [row.model_dump() for row in self.measures.summaries],
            "separation": [row.model_dump() for row in self.separation],
        }
        return json.dumps(json.loads(self.report.to_json()) | more)


@dataclass(frozen=True)
class _Table:
    """A table's rows: prompts as text, candidates as they are, positions (None where there is no such column)."""

    name: str
    prompts: pa.ChunkedArray
    candidates: pa.ChunkedArray
    positions: Codes | None
    captions: pa.ChunkedArray | None
    values: Array


def measure_tables(config: MetricsConfig) -> OutsideReport:
    """Every metric that score tables alone can tell.

    Raises:
        NbenchError: a file or column is missing or of the wrong kind, a key is there twice, or no key is in both.
    """
    return _report(config, *_arrays(config))  # the tables themselves are gone before the measuring starts


def _arrays(config: MetricsConfig) -> tuple[str, dict[str, ModelScores], dict[str, Array], int]:
    """The model's name, its scores by caption and position, the reference by its name, and the final position."""
    scores, reference = _read(config.scores), _read(config.reference)
    if scores.positions is None:
        raise NbenchError(f"{config.scores} has no column position: it takes prompt_id, candidate, position, score")
    final = _final_position(config, scores, reference)
    reference = _finals(reference, final, config.reference)
    place, shape = _places(scores, reference)
    n_scores = len(scores.values)
    by_caption = _score_arrays(scores, place[:n_scores], shape, config.scores)
    values = _fill(reference, place[n_scores:], shape, None, config.reference)
    if not any((np.isfinite(array) & np.isfinite(values)).any() for array in by_caption[PROMPT].values()):
        raise NbenchError(f"no prompt_id and candidate of {config.scores} has a reference in {config.reference}")
    return scores.name, by_caption, {reference.name: values}, final


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


def _read(path: Path) -> _Table:
    try:
        there = pq.read_schema(path).names
        absent = [name for name in ("prompt_id", "candidate", "score") if name not in there]
        if absent:
            columns = one_line(", ".join(there))
            raise NbenchError(f"{path} has no column {', '.join(absent)}: it has {columns}")
        wanted = [name for name in ("prompt_id", "candidate", "position", "score", "caption") if name in there]
        texts = [name for name in ("prompt_id", "caption") if name in there]
        table = pq.ParquetFile(path, read_dictionary=texts).read(wanted)
        metadata = scores_metadata(table)
    except NbenchError:
        raise
    except FileNotFoundError:
        raise NbenchError(f"no file at {path}: give a Parquet table of scores") from None
    except Exception as error:  # damaged bytes make the libraries that read them raise anything
        reason = one_line(str(error).partition("\n")[0]) or type(error).__name__
        raise NbenchError(f"cannot read {path}: {reason}") from None
    for name in ("prompt_id", "candidate", *(["position"] if "position" in wanted else [])):
        if table[name].null_count:
            raise NbenchError(f"{path}: column {name} has empty cells; every row needs its key")
    if not table.num_rows:
        raise NbenchError(f"{path} has no rows")
    return _Table(
        name=str(metadata.get("scorer") or path.stem),
        prompts=table["prompt_id"],
        candidates=table["candidate"],
        positions=_numbers(path, table, "position", pa.int64()) if "position" in wanted else None,
        captions=table["caption"] if "caption" in wanted else None,
        values=_numbers(path, table, "score", pa.float64()),
    )


def _numbers(path: Path, table: pa.Table, name: str, kind: pa.DataType) -> NDArray[Any]:
    given = table.schema.field(name).type
    try:
        if not (pa.types.is_integer(given) or pa.types.is_floating(given)):
            raise pa.ArrowInvalid("no numbers")
        return np.asarray(table[name].cast(kind).to_numpy())  # an empty score becomes NaN
    except pa.ArrowInvalid:
        kinds = {pa.int64(): "whole numbers", pa.float64(): "numbers"}
        raise NbenchError(f"{path}: column {name} is not of {kinds[kind]}") from None


def _final_position(config: MetricsConfig, scores: _Table, reference: _Table) -> int:
    positions = [int(table.positions.max()) for table in (scores, reference) if table.positions is not None]
    final = max(positions) if config.final_position is None else config.final_position
    if positions[0] > final:
        raise NbenchError(f"{config.scores} has position {positions[0]}, which lies after --final-position {final}")
    if int(scores.positions.min()) < 0:  # type: ignore[union-attr]
        raise NbenchError(f"{config.scores} has negative positions: 0 is where denoising starts")
    return final


def _finals(reference: _Table, final: int, path: Path) -> _Table:
    """The rows of the finished images, by the true caption."""
    keep = np.ones(len(reference.values), bool)
    if reference.positions is not None:
        last = int(reference.positions.max())
        if last != final:
            raise NbenchError(f"{path} ends at position {last}, the scores at {final}: give --final-position {last}")
        keep &= reference.positions == final
    if reference.captions is not None:
        true = np.asarray(pc.fill_null(pc.equal(reference.captions.cast(pa.string()), PROMPT), False))
        keep &= true if true.any() else True
    mask = pa.array(keep)
    prompts, candidates = reference.prompts.filter(mask), reference.candidates.filter(mask)
    return _Table(reference.name, prompts, candidates, None, None, reference.values[keep])


def _places(scores: _Table, reference: _Table) -> tuple[Codes, tuple[int, int]]:
    """Where the rows of both tables go in [P, N], flat, and that shape. Candidates are numbered within their prompt,
    for they may be seeds."""
    prompts, n_prompts = _ranks([scores.prompts, reference.prompts])
    candidates, n_values = _ranks([scores.candidates, reference.candidates])
    pairs, _ = _ranks([pa.chunked_array([pa.array(prompts * n_values + candidates)])])
    prompt_of = np.zeros(int(pairs.max()) + 1, np.int64)
    prompt_of[pairs] = prompts
    first = np.searchsorted(prompt_of, np.arange(n_prompts))
    number = pairs - first[prompts]
    shape = n_prompts, int(number.max()) + 1
    return prompts * shape[1] + number, shape


def _ranks(columns: list[pa.ChunkedArray]) -> tuple[Codes, int]:
    """Ranks of the values of columns taken together, equal ones sharing theirs, and how many there are."""
    kind = pa.int64() if all(pa.types.is_integer(column.type) for column in columns) else pa.string()
    joined = pa.chunked_array([chunk for column in columns for chunk in column.cast(kind).chunks], kind)
    encoded = pa.concat_arrays(joined.dictionary_encode().unify_dictionaries().chunks)
    ranks = np.asarray(pc.rank(encoded.dictionary, tiebreaker="first")).astype(np.int64) - 1
    return ranks[encoded.indices.to_numpy()], len(ranks)


def _score_arrays(scores: _Table, place: Codes, shape: tuple[int, int], path: Path) -> dict[str, ModelScores]:
    """Scores [P, N] by caption and position."""
    assert scores.positions is not None
    positions, at = np.unique(scores.positions, return_inverse=True)
    kinds, which = [PROMPT], np.zeros(1, np.int64)
    if scores.captions is not None:
        encoded = scores.captions.cast(pa.string()).dictionary_encode().unify_dictionaries()
        named = encoded.chunk(0).dictionary.to_pylist()
        if PROMPT in named:  # else it is a text of the experiment's own
            kinds = named
            indices = [np.asarray(chunk.indices.fill_null(0)) for chunk in encoded.chunks]
            which = np.concatenate(indices).astype(np.int64)
    cell = (which * len(positions) + at) * (shape[0] * shape[1]) + place
    filled = _fill(scores, cell, (len(kinds), len(positions), *shape), positions, path)
    return {kind: _known_positions(positions, arrays) for kind, arrays in zip(kinds, filled, strict=True)}


def _known_positions(positions: Codes, arrays: Array) -> ModelScores:
    return {int(k): array for k, array in zip(positions, arrays, strict=True) if np.isfinite(array).any()}


def _fill(table: _Table, cell: Codes, shape: tuple[int, ...], positions: Codes | None, path: Path) -> Array:
    """Values put into their cells, NaN elsewhere.

    Raises:
        NbenchError: two rows for one cell, or far more cells than memory holds.
    """
    cells = int(np.prod(shape))
    if cells > _MAX_CELLS:
        raise NbenchError(f"{path}: {shape[-1]} candidates of one prompt make {cells:,} cells: measure it in parts")
    filled, twice = scattered(table.values, cell, shape)
    if len(twice):
        row = int(twice[0])
        key = f"prompt_id {one_line(str(table.prompts[row]))}, candidate {table.candidates[row]}"
        at = "" if positions is None or table.positions is None else f", position {table.positions[row]}"
        raise NbenchError(f"{path} has {key}{at} more than once ({len(twice)} such rows): keep one row a key")
    return filled
