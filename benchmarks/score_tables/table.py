"""The one reader of score tables: every command gets the same `ScoreTable`, or the same error."""

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
"""The columns that may hold the ids of a prompt's images; the first that both tables have is used."""

SCORES = ("score",)
REFERENCE = ("score", "rating", "ratings")
RATINGS = ("rating", "ratings", "score")
"""Columns that may hold a table's values; the first one present is used."""

_COLUMNS = ("prompt_id", *IMAGE_COLUMNS, "position", "caption", "status", *REFERENCE)
_MOST_POSITION = 2**31
_FAILED = "failed"


@dataclass(frozen=True)
class ScoreTable:
    """M scores, each with its key.

    Attributes:
        place: the table's name in errors.
        metadata: its provenance as written by `write_scores`; empty in tables of users.
        prompts, images: ids as text, dictionary-encoded [M]; images by the name of their column.
        positions: int64 [M]; None without a column `position`.
        captions: `prompt` or the kind of corruption [M]; None if all rows score the prompt itself.
        scores: float64 [M], NaN for a missing value.
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
        """The name of the scorer, else of the file."""
        return str(self.metadata.get("scorer") or Path(self.place).stem)

    @classmethod
    def of(cls, table: pa.Table, place: str, values: Sequence[str] = SCORES) -> ScoreTable:
        """From a table in memory; arguments and errors as for `read_score_table`."""
        return _from_batches([table], place, values)

    def rows(self, mask: NDArray[np.bool_]) -> ScoreTable:
        """The rows where `mask`, bool [M], is true."""
        arrow_mask = pa.array(mask)
        return replace(
            self,
            prompts=self.prompts.filter(arrow_mask),
            images={name: ids.filter(arrow_mask) for name, ids in self.images.items()},
            positions=None if self.positions is None else self.positions[mask],
            captions=None if self.captions is None else self.captions.filter(arrow_mask),
            scores=self.scores[mask],
        )

    def of_prompts(self) -> ScoreTable:
        """The table without the rows that score a corrupted caption."""
        if self.captions is None:
            return self
        code = self.captions.dictionary.index(PROMPT).as_py()
        return replace(self.rows(self.captions.indices.to_numpy() == code), captions=None)

    def finals(self, final: int | None = None, option: str = "") -> ScoreTable:
        """The scores of finished images: of the prompts themselves, at the last position if there are positions.

        Raises:
            NbenchError: the last position is not `final`; `option` is the option that sets `final`.
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
        NbenchError: no such file, unreadable, or without rows; a column missing, duplicate or of an unsupported type;
            an empty prompt_id, image, position or kind of caption; a score that is not a number.
    """
    return _from_batches(table_batches(path, _COLUMNS), str(path), values)


def final_position(scores: ScoreTable, reference: ScoreTable, final: int | None, option: str) -> int:
    """The position of finished images: `final` (set by `option`), else the last position of the two tables.

    Raises:
        NbenchError: the scores have no positions, or later ones than `final`.
    """
    last = int(positions_of(scores).max())
    if final is None:
        return last if reference.positions is None else max(last, int(reference.positions.max()))
    if last > final:
        raise NbenchError(f"{scores.place} has position {last}, which is after {option} {final}: give {last} or more")
    return final


def positions_of(table: ScoreTable) -> NDArray[np.int64]:
    """The position of each row, int64 [M].

    Raises:
        NbenchError: the table has none.
    """
    if table.positions is None:
        raise NbenchError(f"{table.place} has no column position: it needs prompt_id, candidate, position, score")
    return table.positions


def nothing_shared(scores: ScoreTable, reference: ScoreTable, column: str) -> NbenchError:
    """The error if no image has a value in both tables."""
    each = " and ".join(f"{table.place} has {key_of(table, column, 0)}" for table in (scores, reference))
    return NbenchError(f"no image has a value in both tables ({each}): give both the same ids")


def key_of(table: ScoreTable, column: str, row: int) -> str:
    """The key of a row, in words; column: the image column."""
    key = f"prompt_id {table.prompts[row]}, {column} {table.images[column][row]}"
    return one_line(key if table.positions is None else f"{key}, position {table.positions[row]}")


def _from_batches(batches: Iterable[pa.Table], place: str, values: Sequence[str]) -> ScoreTable:
    metadata: Mapping[str, Any] | None = None
    value, start, parts, ours = "", 0, list[pa.Table](), False
    for batch in batches:
        if metadata is None:
            metadata, value = _metadata(batch, place), _checked(batch.column_names, place, values)
            ours = batch.schema.equals(SCORE_SCHEMA)  # our own format: ids are exactly those of the bench
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
    """The column of the values; an error if a needed column is missing or duplicate."""
    there = one_line(", ".join(names))
    for name in dict.fromkeys(names):
        if name in _COLUMNS and names.count(name) > 1:
            raise NbenchError(f"{place} has two columns {name} (it has {there}): rename or remove one")
    for options in (("prompt_id",), IMAGE_COLUMNS, values):
        if not any(name in names for name in options):
            raise NbenchError(f"{place} has no column {' or '.join(options)} (it has {there}): add or rename one")
    return next(name for name in values if name in names)


def _typed(table: pa.Table, place: str, value: str, start: int, lists: bool, exact: bool) -> pa.Table:
    """The relevant columns in the types of a `ScoreTable`, with nulls; start: rows of the table before these."""
    images = [name for name in IMAGE_COLUMNS if name in table.column_names]
    usable = [
        name for name in images[1:] if may_be_ids(table[name].type)
    ]  # an `image` may be a picture instead of an id
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
        raise NbenchError(
            f"{place} row {row + 1}: position {numbers[row]:g} is not a whole number of 0 or more: correct it"
        )
    return numbers.astype(np.int64)


def _captions(column: pa.DictionaryArray, place: str) -> pa.DictionaryArray | None:
    """None if the captions are texts of the user's own: then none of them is `prompt`."""
    if PROMPT not in column.dictionary.take(column.indices.unique().drop_null()).to_pylist():
        return None
    if column.null_count:
        row = int(np.flatnonzero(column.is_null())[0]) + 1
        raise NbenchError(
            f"{place} row {row} has no caption, but others have {PROMPT!r}: fill it in, or remove the row"
        )
    return column
