"""Other people's tables of scores and ratings: Parquet, CSV or JSONL, one row an image, joined by prompt and image."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import NbenchError, one_line
from .metrics.arrays import Array
from .metrics.pairs import Indices

IMAGE_COLUMNS = ("candidate", "image", "model")
"""What may tell the images of a prompt apart; the first that scores and ratings both have is gone by."""
_RATING_COLUMNS = ("rating", "ratings", "score")


@dataclass(frozen=True)
class Ratings:
    """What people gave to R images, one number each, their mean where there are several; prompt by prompt.

    prompts: the ids of the prompts, ascending; of_prompt: int [R], the number of each image's prompt, ascending;
    images: by column, what each image is called, as text.
    """

    place: str
    prompts: tuple[str, ...]
    of_prompt: Indices
    images: dict[str, tuple[str, ...]]
    values: Array

    @classmethod
    def of(cls, table: pa.Table, place: str) -> Ratings:
        """From columns `prompt_id`, some of `IMAGE_COLUMNS`, and `rating`, `ratings` (a list) or `score`.

        Raises:
            NbenchError: a column missing, a rating that is none, an image rated twice, or nothing rated.
        """
        column = _one_of(table, _RATING_COLUMNS, place)
        table = _of_prompts(table)
        ids = _texts(table, "prompt_id", place)
        means = np.array(
            [_mean(value, f"{place} row {row + 1}") for row, value in enumerate(table[column].to_pylist())]
        )
        names = {name: _texts(table, name, place) for name in IMAGE_COLUMNS if name in table.column_names}
        if not names:
            raise _no_image(table, place)
        known = np.flatnonzero(np.isfinite(means))
        if not len(known):
            raise NbenchError(f"{place} has no rating: it needs at least one")
        prompts, of_prompt = np.unique(np.array(ids, dtype=object)[known].astype(str), return_inverse=True)
        order = np.argsort(of_prompt, kind="stable")
        rows = known[order]
        found = {name: tuple(texts[row] for row in rows) for name, texts in names.items()}
        return cls(place, tuple(prompts.tolist()), of_prompt[order], found, means[rows])

    def keys(self, column: str) -> list[tuple[str, str]]:
        """Prompt and image of each.

        Raises:
            NbenchError: an image is there twice.
        """
        keys = [(self.prompts[p], name) for p, name in zip(self.of_prompt, self.images[column], strict=True)]
        _once(keys, column, self.place)
        return keys


@dataclass(frozen=True)
class Scores:
    """A table of scores; `place` is what errors call it."""

    place: str
    table: pa.Table

    def joined(self, ratings: Ratings) -> dict[int | None, Array]:
        """The score of each rated image, float [R], by position, ascending; NaN where there is none.

        Raises:
            NbenchError: a column missing, an image scored twice at a position, or none that was rated.
        """
        table = _of_prompts(self.table)
        for name in ("prompt_id", "score"):
            _one_of(table, (name,), self.place)
        column = next((name for name in ratings.images if name in table.column_names), None)
        if column is None:
            raise _no_image(table, self.place, tuple(ratings.images))
        rows = {key: row for row, key in enumerate(ratings.keys(column))}
        keys = list(zip(_texts(table, "prompt_id", self.place), _texts(table, column, self.place), strict=True))
        values = _numbers(table, "score", self.place)
        at = _numbers(table, "position", self.place) if "position" in table.column_names else None
        if at is not None and not (np.isfinite(at) & (at == np.floor(at))).all():
            raise NbenchError(f"{self.place}: position has other values than whole numbers")
        found: dict[int | None, Array] = {}
        for position in [None] if at is None else np.unique(at).astype(int).tolist():
            here = range(len(keys)) if at is None else np.flatnonzero(at == position).tolist()
            _once([keys[row] for row in here], column, self.place)
            found[position] = np.full(len(rows), np.nan)
            for row in here:
                if (place := rows.get(keys[row])) is not None:
                    found[position][place] = values[row]
        if not any(np.isfinite(scores).any() for scores in found.values()):
            example = "/".join(keys[0]) if keys else "nothing"
            raise NbenchError(
                f"no rated image has a score: {ratings.place} rates {'/'.join(next(iter(rows)))}, "
                f"{self.place} scores {one_line(example)} (prompt_id/{column})"
            )
        return found


def read_table(path: Path) -> pa.Table:
    """A table of a Parquet, CSV, TSV or JSONL file; ids stay text where they are written so.

    Raises:
        NbenchError: none there, unreadable, or of another kind.
    """
    import pyarrow.csv
    import pyarrow.json
    import pyarrow.parquet

    kind = path.suffix.lower()
    try:
        if kind == ".parquet":
            return pyarrow.parquet.read_table(path)
        if kind in (".csv", ".tsv"):
            texts = {name: pa.string() for name in ("prompt_id", *IMAGE_COLUMNS)}
            return pyarrow.csv.read_csv(
                path,
                parse_options=pyarrow.csv.ParseOptions(delimiter="," if kind == ".csv" else "\t"),
                convert_options=pyarrow.csv.ConvertOptions(column_types=texts),
            )
        if kind in (".jsonl", ".ndjson"):
            return pyarrow.json.read_json(path)
    except Exception as error:  # damaged bytes make the libraries that read them raise anything
        reason = getattr(error, "strerror", None) or one_line(str(error).partition("\n")[0])
        raise NbenchError(f"cannot read {path}: {reason}") from None
    raise NbenchError(f"cannot read {path}: its name ends neither in .parquet, .csv, .tsv nor .jsonl")


def _of_prompts(table: pa.Table) -> pa.Table:
    """Without the rows that score another caption than the prompt."""
    if "caption" not in table.column_names:
        return table
    return table.filter(pc.equal(table["caption"].cast(pa.string()), "prompt"))


def _one_of(table: pa.Table, names: tuple[str, ...], place: str) -> str:
    found = next((name for name in names if name in table.column_names), None)
    if found is None:
        there = one_line(", ".join(table.column_names))
        raise NbenchError(f"{place} has no column {' or '.join(names)} (it has {there}): rename one")
    return found


def _no_image(table: pa.Table, place: str, names: tuple[str, ...] = IMAGE_COLUMNS) -> NbenchError:
    there = one_line(", ".join(table.column_names))
    return NbenchError(f"{place} does not say which image: it needs a column {' or '.join(names)} (it has {there})")


def _texts(table: pa.Table, name: str, place: str) -> list[str]:
    values = table[_one_of(table, (name,), place)].to_pylist()
    if None in values:
        raise NbenchError(f"{place} row {values.index(None) + 1} has no {name}: fill it in, or remove the row")
    return [str(value) for value in values]


def _numbers(table: pa.Table, name: str, place: str) -> Array:
    try:
        return np.array(table[name].cast(pa.float64()).to_numpy(), dtype=float)
    except (pa.ArrowException, ValueError):
        raise NbenchError(f"{place}: {name} has other values than numbers ({table[name].type})") from None


def _mean(value: Any, place: str) -> float:
    """Of one rating or several; NaN where there is none."""
    try:
        given = json.loads(value) if isinstance(value, str) else value
        several = [number for number in (given if isinstance(given, list) else [given]) if number is not None]
        if any(isinstance(number, bool) or not isinstance(number, int | float) for number in several):
            raise TypeError
        return float(np.mean(several)) if several else float("nan")
    except (ValueError, TypeError, RecursionError):
        raise NbenchError(f"{place}: a rating is a number, or a list of numbers, not {one_line(repr(value))}") from None


def _once(keys: list[tuple[str, str]], column: str, place: str) -> None:
    if len(set(keys)) < len(keys):
        seen: set[tuple[str, str]] = set()
        twice = next(key for key in keys if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise NbenchError(f"{place} has {'/'.join(twice)} (prompt_id/{column}) twice: keep one row an image")
