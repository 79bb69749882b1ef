"""The checks of one shard of a data set: its file, and every row."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import NbenchError, one_line, reason_of
from .formats import FORMATS
from .reader import Bench
from .row_columns import array_columns, arrow_schema, scale_of
from .rows import decode_image
from .schema import DatasetInfo, ShardRecord
from .seeds import candidate_seed
from .storage import Location

_BATCH_BYTES = 64 * 2**20
_PIECE = 4 * 2**20


@dataclass(frozen=True)
class Defect:
    """A defect: the file, the row's id (or ""), and what is wrong."""

    file: str
    row: str
    what: str

    def __str__(self) -> str:
        return one_line(f"{self.file}{f', row {self.row}' if self.row else ''}: {self.what}")


@dataclass
class CheckedRows:
    """What the check of all shards together needs of one.

    Attributes:
        first: the rows of its first prompt, which may have begun in the shard before: name, prompt id and prompt.
        prompts: for each other prompt, the name of its first row, its number, and its id.
        last: the last of these: its number, id and text.
    """

    first: list[tuple[str, str, str]] = field(default_factory=list)
    prompts: list[tuple[str, int, str]] = field(default_factory=list)
    last: tuple[int, str, str] | None = None


def check_shard(bench: Bench, index: int, advance: Callable[[int], None]) -> tuple[list[Defect], CheckedRows]:
    """The defects of a shard by itself, and what the check of all shards together needs; `advance` counts rows."""
    info, name, rows = bench.info, bench.info.shard_path(index), CheckedRows()
    record = info.shards[index]
    if record is None:
        return [Defect(name, "", "is not built yet")], rows
    defects = [Defect(name, "", what) for what in _file(bench.location, info, index, record)]
    if bench.location.size(name) is not None:
        defects += _rows(bench, index, rows, advance)
    return defects, rows


def stray(prompt: str, other: str) -> str:
    """The defect of a row of `prompt` in the place of one of `other`."""
    return f"belongs to prompt {prompt}, but is among the candidates of {other}"


def _file(location: Location, info: DatasetInfo, index: int, record: ShardRecord) -> Iterator[str]:
    size = location.size(record.path)
    if size is None:
        yield "is missing"
        return
    if size != record.bytes:
        yield f"has {size} bytes, not {record.bytes}"
    source = location.open(record.path)
    total = hashlib.sha256()
    with source.open("rb") if isinstance(source, Path) else source as file:
        with location.reading(record.path):
            while piece := file.read(_PIECE):
                total.update(piece)
        if total.hexdigest() != record.sha256:
            yield "its SHA-256 differs from the recorded one"
        try:
            file.seek(0)
            misfit = FORMATS[info.format].misfit(file, info, index)
        except Exception as error:  # as in `Bench.shard_rows`
            misfit = f"cannot be opened ({reason_of(error)})"
        if misfit:
            yield misfit


def _rows(bench: Bench, index: int, of: CheckedRows, advance: Callable[[int], None]) -> Iterator[Defect]:
    info, name = bench.info, bench.info.shard_path(index)
    columns = arrow_schema(info).names
    size = max(1, _BATCH_BYTES // info.row_bytes)
    first = info.shard_rows(index).start
    try:
        for rows in bench.shard_rows(index, columns, size):
            for row, what in _names(rows, info, first, of):
                yield Defect(name, row, what)
            for row, what in _content(rows, info):
                yield Defect(name, row, what)
            first += len(rows)
            advance(len(rows))
    except NbenchError as error:
        yield Defect(name, "", str(error))


def _names(rows: pa.RecordBatch, info: DatasetInfo, first: int, of: CheckedRows) -> Iterator[tuple[str, str]]:
    """Ids, prompts, candidates and seeds."""
    base, begun = info.spec.get("seed"), info.cell(info.shard_rows(info.shard_of(first)).start)[0]
    for number, row in enumerate(rows.select(["id", "prompt_id", "prompt", "candidate", "seed"]).to_pylist(), first):
        prompt, candidate = str(row["prompt_id"]), row["candidate"]
        name = str(row["id"])
        if row["id"] != f"{row['prompt_id']}/{candidate}":
            yield name, f"its id is not that of prompt {row['prompt_id']}, candidate {candidate}"
        prompt_number, expected = info.cell(number)
        if candidate != expected:
            yield name, f"candidate {candidate} is in the place of candidate {expected}"
        here = (prompt_number, prompt, row["prompt"])
        if prompt_number != (of.last[0] if of.last else begun):
            of.prompts.append((name, prompt_number, prompt))
            of.last = here
        elif of.last is None:
            of.first.append((name, prompt, row["prompt"]))
        elif of.last != here:
            yield name, stray(prompt, of.last[1])
        if isinstance(base, int) and row["seed"] != candidate_seed(base, str(row["prompt_id"]), int(candidate or 0)):
            yield name, f"its seed {row['seed']} does not follow from the data set's seed {base}"


def _content(rows: pa.RecordBatch, info: DatasetInfo) -> Iterator[tuple[str, str]]:
    """Status, latents, other signals and image."""
    names, status = rows["id"].to_pylist(), rows["status"].to_pylist()
    failed = np.array([value == "failed" for value in status], bool)
    for name, value, error in zip(names, status, rows["error"].to_pylist(), strict=True):
        if value not in ("ok", "failed") or (value == "failed") != bool(error):
            yield str(name), f"status {value!r} with error {error!r}"
    for column, array in array_columns(info).items():
        if array.scale:
            continue
        present = rows[column].is_valid().to_numpy(zero_copy_only=False)
        yield from ((str(names[i]), f"has no {array.label}") for i in np.flatnonzero(~present & ~failed))
        yield from ((str(names[i]), f"failed, and has a {array.label}") for i in np.flatnonzero(present & failed))
        finite = _finite(rows[column])
        if array.element == "int8":
            finite &= _finite(rows[scale_of(column)])
        for i in np.flatnonzero(present & ~finite):
            yield str(names[i]), f"its {array.label} is not finite"
    for name, bad, png in zip(names, failed, pc.struct_field(rows["image"], "bytes").to_pylist(), strict=True):
        if not bad:
            try:
                decode_image(png, info.image_size)
            except ValueError as error:
                yield str(name), str(error)


def _finite(lists: pa.Array) -> np.ndarray:
    """Bool [B]: whether a row has a list of finite numbers only."""
    count, width = len(lists), lists.type.list_size
    numbers = lists.values.slice(lists.offset * width, count * width).to_numpy(zero_copy_only=False)
    valid: np.ndarray = lists.is_valid().to_numpy(zero_copy_only=False)
    return valid & np.isfinite(numbers).reshape(count, width).all(1)
