"""In what two score tables differ."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from .report import Difference, ValueDifference, missing

Key = tuple[object, ...]


def table_differences(name: str, a: pa.Table, b: pa.Table) -> Iterator[Difference | ValueDifference]:
    """The rows that one of two score tables lacks, and the scores and statuses that differ."""
    left, right = _rows(a), _rows(b)
    yield from missing(
        "scores", [f"{name}: {_name(key)}" for key in left], [f"{name}: {_name(key)}" for key in right], "rows"
    )
    keys = [key for key in left if key in right]
    scores = figure_difference(f"scores of {name}", ((_name(key), left[key][0], right[key][0]) for key in keys))
    if scores:
        yield scores
    if other := [key for key in keys if left[key][1] != right[key][1]]:
        yield ValueDifference(f"status in {name}", len(keys), len(other), None, None, _name(other[0]))


def figure_difference(name: str, rows: Iterable[tuple[str, float | None, float | None]]) -> ValueDifference | None:
    """In how many (row, a, b) the figures differ and by how much; None or NaN equal each other. None: in no row."""
    compared, other, absolute, relative = 0, list[str](), list[float](), list[float]()
    for row, a, b in rows:
        compared += 1
        x, y = (np.nan if each is None else float(each) for each in (a, b))
        if x == y or (np.isnan(x) and np.isnan(y)):
            continue
        other.append(row)
        if np.isfinite(x) and np.isfinite(y):
            absolute.append(abs(x - y))
            relative.append(abs(x - y) / abs(x) if x else float("inf"))
    if not other:
        return None
    return ValueDifference(
        name, compared, len(other), max(absolute, default=None), max(relative, default=None), other[0]
    )


def _rows(table: pa.Table) -> dict[Key, tuple[float | None, str | None]]:
    columns = [table[name].to_pylist() for name in table.schema.names]
    return {tuple(row[:4]): (row[4], row[5]) for row in zip(*columns, strict=True)}


def _name(key: Key) -> str:
    prompt, candidate, position, caption = key
    return f"{prompt}/{candidate} at {position}" + ("" if caption == "prompt" else f", {caption}")
