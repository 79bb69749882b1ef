"""The one reader of score tables: what a person hands in is a `ScoreTable`, or is refused the same way everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ...errors import NbenchError, one_line, reason_of
from ...shards.scores import PROMPT, SCORE_SCHEMA, scores_metadata
from ..metrics.arrays import Array
from .files import table_batches
from .values import equals, ids_of, may_be_ids, numbers_of, without_zero_fractions

IMAGE_COLUMNS = ("candidate", "image", "model")
"""What may tell the images of a prompt apart."""

SCORES = ("score",)
REFERENCE = ("score", "rating", "ratings")
RATINGS = ("rating", "ratings", "score")
"""Columns that may hold a table's values; the first that is there counts."""

_COLUMNS = ("prompt_id", *IMAGE_COLUMNS, "position", "caption", "status", *REFERENCE)
_MOST_POSITION = 2**31
_FAILED = "failed"


@dataclass(frozen=True)
class ScoreTable:
    """M scores, each with its key.

    Attributes:
        place: what errors call the table.
        metadata: its provenance, as `write_scores` was given; empty in other people's tables.
        prompts, images: ids as text, dictionary-encoded [M]; images by the name of the column that tells them apart.
        positions: int64 [M]; None without a column `position`.
        captions: `prompt` or the kind of a corruption [M]; None where all rows score the prompt itself.
        scores: float64 [M], NaN for no value.
    """

    place: str
    metadata: Mapping[str, Any]
    prompts: pa.DictionaryArray
    images: Mapping[str, pa.DictionaryArray]
    positions: NDArray[np.int64] | None
    captions: pa.DictionaryArray | None
    scores: Array

    @property
    def name(self) -> str:
        """The scorer's, or that of the file."""
        return str(self.metadata.get("scorer") or Path(self.place).stem)

    @classmethod
    def of(cls, table: pa.Table, place: str, values: Sequence[str] = SCORES) -> ScoreTable:
        """From a table in memory; arguments and errors as for `read_score_table`."""
        return _from_batches([table], place, values)

    def rows(self, kept: NDArray[np.bool_]) -> ScoreTable:
        """The rows where `kept`, bool [M], is true."""
        mask = pa.array(kept)
        return replace(
            self,
            prompts=self.prompts.filter(mask),
            images={name: ids.filter(mask) for name, ids in self.images.items()},
            positions=None if self.positions is None else self.positions[kept],
            captions=None if self.captions is None else self.captions.filter(mask),
            scores=self.scores[kept],
        )

    def of_prompts(self) -> ScoreTable:
        """Without the rows that score a corrupted caption."""
        if self.captions is None:
            return self
        code = self.captions.dictionary.index(PROMPT).as_py()
        return replace(self.rows(self.captions.indices.to_numpy() == code), captions=None)

    def finals(self, final: int | None = None, option: str = "") -> ScoreTable:
        """The scores of finished images: of the prompts themselves, at the last position where there are positions.

        Raises:
            NbenchError: that is not `final`, which `option` can change.
        """
        table = self.of_prompts()
        if table.positions is None:
            return table
        last = int(table.positions.max())
        if final is not None and last != final:
            advice = f"give {option} {last}" if option else "score the finished images"
            raise NbenchError(f"{self.place} ends at position {last}, the runs at {final}: {advice}")
        return replace(table.rows(table.positions == last), positions=None)


def read_score_table(path: Path, values: Sequence[str] = SCORES) -> ScoreTable:
    """Read a table of scores, references or ratings: Parquet, or CSV, TSV or JSON Lines by the ending of its name.

    Args:
        values: the columns that may hold the values: `SCORES`, `REFERENCE` or `RATINGS`.

    Raises:
        NbenchError: no such file, unreadable, or without rows; a column missing, there twice, or of an odd type; an
            empty prompt_id, image, position or kind of caption; a score that is no number.
    """
    return _from_batches(table_batches(path, _COLUMNS), str(path), values)


def final_position(scores: ScoreTable, reference: ScoreTable, final: int | None, option: str) -> int:
    """Where finished images are: at `final`, which `option` gives, or at the last position of the two tables.

    Raises:
        NbenchError: the scores have no positions, or later ones.
    """
    last = int(positions_of(scores).max())
    if final is None:
        return last if reference.positions is None else max(last, int(reference.positions.max()))
    if last > final:
        raise NbenchError(f"{scores.place} has position {last}, which lies after {option} {final}: give {last} or more")
    return final


def positions_of(table: ScoreTable) -> NDArray[np.int64]:
    """The position of each row, int64 [M].

    Raises:
        NbenchError: the table has none.
    """
    if table.positions is None:
        raise NbenchError(f"{table.place} has no column position: it takes prompt_id, candidate, position, score")
    return table.positions


def nothing_shared(scores: ScoreTable, reference: ScoreTable, column: str) -> NbenchError:
    """What to say where no image has a value in both tables."""
    each = " and ".join(f"{table.place} has {key_of(table, column, 0)}" for table in (scores, reference))
    return NbenchError(f"no image has a value in both tables ({each}): give both the same ids")


def key_of(table: ScoreTable, column: str, row: int) -> str:
    """What a row is of, in words; `column` tells images apart."""
    key = f"prompt_id {table.prompts[row]}, {column} {table.images[column][row]}"
    return one_line(key if table.positions is None else f"{key}, position {table.positions[row]}")


def _from_batches(batches: Iterable[pa.Table], place: str, values: Sequence[str]) -> ScoreTable:
    metadata: Mapping[str, Any] | None = None
    value, start, parts, ours = "", 0, list[pa.Table](), False
    for batch in batches:
        if metadata is None:
            metadata, value = _metadata(batch, place), _checked(batch.column_names, place, values)
            ours = batch.schema.equals(SCORE_SCHEMA)  # there ids are as the bench has them
        parts.append(_typed(batch, place, value, start, lists=values != SCORES, exact=ours))
        start += batch.num_rows
    if not start:
        raise NbenchError(f"{place} has no rows")
    table = pa.concat_tables(parts, promote_options="default").unify_dictionaries().combine_chunks()
    columns = {name: table[name].chunk(0) for name in table.column_names}
    images = [name for name in IMAGE_COLUMNS if name in columns]
    for name in ("prompt_id", *images[:1], "position"):
        if name in columns and columns[name].null_count:
            row = int(np.flatnonzero(columns[name].is_null())[0]) + 1
            raise NbenchError(f"{place} row {row} has no {name}: fill it in, or remove the row")
    ids = {name: columns[name] for name in ("prompt_id", *images) if not columns[name].null_count}
    if not ours:
        ids = {name: without_zero_fractions(column) for name, column in ids.items()}
    return ScoreTable(
        place=place,
        metadata=metadata or {},
        prompts=ids.pop("prompt_id"),
        images=ids,
        positions=_positions(columns["position"], place) if "position" in columns else None,
        captions=_captions(columns["caption"], place) if "caption" in columns else None,
        scores=columns["score"].to_numpy(),
    )


def _metadata(table: pa.Table, place: str) -> Mapping[str, Any]:
    try:
        return scores_metadata(table)
    except (ValueError, TypeError, RecursionError) as error:
        raise NbenchError(f"cannot read the provenance of {place} (metadata nbench): {reason_of(error)}") from None


def _checked(names: Sequence[str], place: str, values: Sequence[str]) -> str:
    """The column of the values, of a table that has all that is needed."""
    there = one_line(", ".join(names))
    for name in dict.fromkeys(names):
        if name in _COLUMNS and names.count(name) > 1:
            raise NbenchError(f"{place} has two columns {name} (it has {there}): rename or remove one")
    for wanted in (("prompt_id",), IMAGE_COLUMNS, values):
        if not any(name in names for name in wanted):
            raise NbenchError(f"{place} has no column {' or '.join(wanted)} (it has {there}): add or rename one")
    return next(name for name in values if name in names)


def _typed(table: pa.Table, place: str, value: str, start: int, lists: bool, exact: bool) -> pa.Table:
    """The columns that count, each of the one type that it has in a `ScoreTable`, with nulls; `start`: rows before."""
    images = [name for name in IMAGE_COLUMNS if name in table.column_names]
    usable = [name for name in images[1:] if may_be_ids(table[name].type)]  # an `image` may be the picture itself
    names = [name for name in ("prompt_id", *images[:1], *usable) if name in table.column_names]
    columns = {name: ids_of(table[name], name, place, exact) for name in names}
    if "position" in table.column_names:
        positions = numbers_of(table["position"], "position", place, start)
        columns["position"] = pa.array(positions, mask=np.isnan(positions))
    if "caption" in table.column_names:
        columns["caption"] = ids_of(table["caption"], "caption", place)
    if value in table.column_names:
        scores = numbers_of(table[value], value, place, start, lists)
    else:
        scores = np.full(table.num_rows, np.nan)
    if "status" in table.column_names:
        scores = np.where(equals(table["status"], _FAILED), np.nan, scores)
    return pa.table(columns | {"score": scores})


def _positions(column: pa.Array, place: str) -> NDArray[np.int64]:
    numbers = column.to_numpy()
    wrong = np.flatnonzero((numbers < 0) | (numbers >= _MOST_POSITION) | (numbers != np.floor(numbers)))
    if len(wrong):
        row = int(wrong[0])
        raise NbenchError(f"{place} row {row + 1}: position {numbers[row]:g} is no whole number from 0 up: correct it")
    return numbers.astype(np.int64)


def _captions(column: pa.DictionaryArray, place: str) -> pa.DictionaryArray | None:
    """None where the captions are somebody's own texts: then none of them is called `prompt`."""
    if PROMPT not in column.dictionary.take(column.indices.unique().drop_null()).to_pylist():
        return None
    if column.null_count:
        row = int(np.flatnonzero(column.is_null())[0]) + 1
        raise NbenchError(
            f"{place} row {row} has no caption, and others have {PROMPT!r}: fill it in, or remove the row"
        )
    return column
