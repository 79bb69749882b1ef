"""In what the values of rows that two data sets share differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..reader import Bench
from ..row_columns import array_columns, arrow_schema, scale_of
from ..rows import decode_image
from .report import ValueDifference

_BATCH_BYTES = 64 * 2**20
_OPEN = 4
_KEYS = ("id", "prompt_id", "prompt", "candidate")
"""Columns that are compared as prompts and rows."""


@dataclass
class _Column:
    """What was found in a column so far."""

    compared: int = 0
    differ: int = 0
    absolute: float | None = None
    relative: float | None = None
    first: str = ""

    def add(self, ids: Sequence[str], other: np.ndarray, absolute: np.ndarray, relative: np.ndarray) -> None:
        """Rows, bool [B] whether they differ, and by how much, float [B]; NaN where that has no meaning."""
        self.compared += len(ids)
        self.differ += int(other.sum())
        if other.any() and not self.first:
            self.first = ids[int(np.argmax(other))]
        self.absolute = _larger(self.absolute, absolute[other])
        self.relative = _larger(self.relative, relative[other])


def value_differences(
    a: Bench, b: Bench, rows: Sequence[tuple[int, int]], progress: Callable[[int], None] | None = None
) -> list[ValueDifference]:
    """The columns of both whose values differ, in pairs of row numbers (of a, of b), ascending in a.

    int8 latents are compared as the latents that they stand for.
    """
    names = shared_columns(a, b)
    reads = [_stored(bench, names) for bench in (a, b)]
    found = {name: _Column() for name in names}
    size = max(1, _BATCH_BYTES // (4 * max(bench.info.row_bytes for bench in (a, b))))
    left, right = _Rows(a, reads[0], size), _Rows(b, reads[1], size)
    for start in range(0, len(rows), size):
        pairs = rows[start : start + size]
        ours, theirs = left.take([one for one, _ in pairs]), right.take([other for _, other in pairs])
        ids = ours["id"].to_pylist()
        for name in names:
            found[name].add(ids, *_compare(name, a, ours, b, theirs))
        if progress:
            progress(len(pairs))
    return [
        ValueDifference(name, each.compared, each.differ, each.absolute, each.relative, each.first)
        for name, each in found.items()
        if each.differ
    ]


def shared_columns(a: Bench, b: Bench) -> list[str]:
    """The columns whose values can be compared: of the same shape, without keys and scales."""
    columns = [array_columns(bench.info) for bench in (a, b)]
    theirs = set(arrow_schema(b.info).names)
    names = [name for name in arrow_schema(a.info).names if name in theirs and name not in _KEYS]
    return [
        name
        for name in names
        if name not in columns[0] or (not columns[0][name].scale and columns[0][name].shape == columns[1][name].shape)
    ]


def _stored(bench: Bench, names: Sequence[str]) -> list[str]:
    """The columns to read for `names`: with the row's id, and the scales of int8 columns."""
    columns = array_columns(bench.info)
    scales = [scale_of(name) for name in names if name in columns and columns[name].element == "int8"]
    return [name for name in arrow_schema(bench.info).names if name in {"id", *names, *scales}]


class _Rows:
    """Rows of a data set by number; going on in a shard is cheap, and a batch of each of the last few is in memory."""

    def __init__(self, bench: Bench, columns: Sequence[str], size: int) -> None:
        self._bench, self._columns, self._size = bench, columns, size
        self._open: dict[int, tuple[int, pa.RecordBatch, Iterator[pa.RecordBatch]]] = {}

    def take(self, numbers: Sequence[int]) -> pa.Table:
        """The rows `numbers`, in their order."""
        order = np.argsort(numbers, kind="stable")
        parts = [self._row(numbers[place]) for place in order]
        return pa.Table.from_batches(parts).take(pa.array(np.argsort(order, kind="stable")))

    def _row(self, number: int) -> pa.RecordBatch:
        info = self._bench.info
        shard = info.shard_of(number)
        place = number - info.shard_rows(shard).start
        start, batch, rest = self._open.pop(shard) if shard in self._open else self._begin(shard)
        if place < start:
            start, batch, rest = self._begin(shard)
        while place >= start + len(batch):
            start, batch = start + len(batch), next(rest)
        self._open[shard] = start, batch, rest
        if len(self._open) > _OPEN:
            del self._open[next(iter(self._open))]
        return batch.slice(place - start, 1)

    def _begin(self, shard: int) -> tuple[int, pa.RecordBatch, Iterator[pa.RecordBatch]]:
        rows = self._bench.shard_rows(shard, self._columns, self._size)
        return 0, next(rows), rows


def _compare(name: str, a: Bench, ours: pa.Table, b: Bench, theirs: pa.Table) -> tuple[np.ndarray, ...]:
    """Per row whether it differs, and by how much in absolute and relative terms; float [B] each."""
    if name in array_columns(a.info):
        return _compare_numbers(*_decoded(name, a, ours), *_decoded(name, b, theirs))
    nothing = np.full(len(ours), np.nan)
    if name != "image":
        pairs = zip(ours[name].to_pylist(), theirs[name].to_pylist(), strict=True)
        return np.array([one != other for one, other in pairs], bool), nothing, nothing
    pictures = [pc.struct_field(table["image"], "bytes").to_pylist() for table in (ours, theirs)]
    other = np.array([one != two for one, two in zip(*pictures, strict=True)], bool)
    figures = np.array([_compare_pixels(a, one, b, two) for one, two in zip(*pictures, strict=True)])
    return other, *figures.reshape(len(ours), 2).T


def _compare_pixels(a: Bench, ours: bytes | None, b: Bench, theirs: bytes | None) -> tuple[float, float]:
    """By how much two images differ, in absolute and relative terms; NaN if they cannot be compared."""
    if ours == theirs or ours is None or theirs is None or a.info.image_size != b.info.image_size:
        return np.nan, np.nan
    try:
        pixels = [decode_image(png, a.info.image_size).astype(float).reshape(1, -1) for png in (ours, theirs)]
    except ValueError:
        return np.nan, np.nan
    _, absolute, relative = _compare_numbers(pixels[0], np.ones(1, bool), pixels[1], np.ones(1, bool))
    return float(absolute[0]), float(relative[0])


def _compare_numbers(x: np.ndarray, has_x: np.ndarray, y: np.ndarray, has_y: np.ndarray) -> tuple[np.ndarray, ...]:
    """As `_compare`, of float64 [B, D] and whether the rows have values, bool [B]."""
    both = has_x & has_y
    with np.errstate(all="ignore"):
        change = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0, x - y)
        other = (has_x != has_y) | (both & (change != 0).any(1))
        absolute = np.where(both, np.abs(change).max(1, initial=0), np.nan)
        relative = np.linalg.norm(change, axis=1) / np.linalg.norm(x, axis=1)
    return other, absolute, np.where(both, relative, np.nan)


def _decoded(name: str, bench: Bench, rows: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of an array column, float64 [B, D], and whether a row has them, bool [B]."""
    column = array_columns(bench.info)[name]
    values, present = _numbers(rows[name])
    if column.element == "int8":
        scales, _ = _numbers(rows[scale_of(name)])
        values = (values.reshape(len(rows), column.shape[0], -1) * scales[:, :, None]).reshape(len(rows), -1)
    return values, present


def _numbers(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    lists = column.combine_chunks()
    width = lists.type.list_size
    present = lists.is_valid().to_numpy(zero_copy_only=False)
    values = np.zeros((len(lists), width))
    values[present] = lists.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    return values, present


def _larger(known: float | None, values: np.ndarray) -> float | None:
    values = values[~np.isnan(values)]
    return max([*([] if known is None else [known]), *values.tolist()], default=None)
