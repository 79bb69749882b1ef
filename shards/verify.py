"""Check a data set against its record and report every defect."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import NbenchError, one_line, reason_of
from ..options import Place
from .dataset import INFO_FILE, read_info
from .fingerprint import fingerprint
from .formats import FORMATS
from .reader import Bench
from .references import finished_scores
from .row_columns import array_columns, arrow_schema, scale_of
from .rows import decode_image
from .schema import SUFFIXES, DatasetInfo, ShardRecord, digest
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


@dataclass(frozen=True)
class Verification:
    """What was checked, and every defect."""

    rows: int
    shards: int
    defects: tuple[Defect, ...]


@dataclass
class _State:
    """The previous row's prompt and its number, and the numbers of all prompts by id."""

    prompt: tuple[str, str] | None = None
    number: int = 0
    numbers: dict[str, int] = field(default_factory=dict)


def verify(where: Place, progress: Callable[[int], None] | None = None) -> Verification:
    """Check the record, every shard, every row and the score tables of a data set.

    Args:
        progress: called with the number of rows just checked.

    Raises:
        NbenchError: no data set, or an invalid dataset.json.
    """
    location = Location.of(where)
    info = read_info(location)
    bench, state = Bench(info, location), _State()
    defects = list(_record(location, info))
    for index, record in enumerate(info.shards):
        name = info.shard_path(index)
        if record is None:
            defects.append(Defect(name, "", "is not built yet"))
            continue
        defects += [Defect(name, "", what) for what in _file(location, info, index, record)]
        if location.size(name) is not None:
            defects += _rows(bench, index, state, progress)
    defects += _scores(bench, all(defect.file == INFO_FILE for defect in defects))
    return Verification(info.rows, len(info.shards), tuple(defects))


def _record(location: Location, info: DatasetInfo) -> Iterator[Defect]:
    content = json.loads(location.read(INFO_FILE))
    if content.pop("digest", None) != digest(content):
        yield Defect(INFO_FILE, "", "was edited: its digest does not match")
    try:
        if fingerprint(info.spec) != info.fingerprint:
            yield Defect(INFO_FILE, "", "its fingerprint does not match its spec")
    except (KeyError, TypeError):
        yield Defect(INFO_FILE, "", "its spec names no pipeline")
    expected = {info.shard_path(index) for index in range(len(info.shards))}
    for suffix in SUFFIXES.values():
        for name in set(location.names("data", f".{suffix}")) - expected:
            yield Defect(name, "", "is not a shard of this data set")


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


def _rows(bench: Bench, index: int, state: _State, progress: Callable[[int], None] | None) -> Iterator[Defect]:
    info, name = bench.info, bench.info.shard_path(index)
    columns = arrow_schema(info).names
    size = max(1, _BATCH_BYTES // info.row_bytes)
    first = info.shard_rows(index).start
    try:
        for rows in bench.shard_rows(index, columns, size):
            for row, what in _names(rows, info, first, state):
                yield Defect(name, row, what)
            for row, what in _content(rows, info):
                yield Defect(name, row, what)
            first += len(rows)
            if progress:
                progress(len(rows))
    except NbenchError as error:
        yield Defect(name, "", str(error))


def _names(rows: pa.RecordBatch, info: DatasetInfo, first: int, state: _State) -> Iterator[tuple[str, str]]:
    """Ids, prompts, candidates and seeds."""
    base = info.spec.get("seed")
    for number, row in enumerate(rows.select(["id", "prompt_id", "prompt", "candidate", "seed"]).to_pylist(), first):
        prompt, candidate = row["prompt_id"], row["candidate"]
        name = str(row["id"])
        if row["id"] != f"{prompt}/{candidate}":
            yield name, f"its id is not that of prompt {prompt}, candidate {candidate}"
        prompt_number, expected = info.cell(number)
        if candidate != expected:
            yield name, f"candidate {candidate} is in the place of candidate {expected}"
        if state.prompt is None or state.number != prompt_number:
            if state.numbers.setdefault(prompt, prompt_number) != prompt_number:
                yield name, f"prompt {prompt} appears twice"
            state.prompt, state.number = (prompt, row["prompt"]), prompt_number
        elif state.prompt != (prompt, row["prompt"]):
            yield name, f"belongs to prompt {prompt}, but is among the candidates of {state.prompt[0]}"
        if isinstance(base, int) and row["seed"] != candidate_seed(base, str(prompt), int(candidate or 0)):
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


def _scores(bench: Bench, sound: bool) -> Iterator[Defect]:
    try:
        tables = bench.references
    except NbenchError as error:
        yield Defect("scores", "", str(error))
        return
    for name, table in tables.items() if sound else ():  # unreadable rows are not a defect of their scores
        try:
            finished_scores(bench, name)
        except NbenchError as error:
            yield Defect(f"scores/{name}.parquet", "", str(error))
            continue
        keys = table.select(["prompt_id", "candidate", "position", "caption"])
        if keys.group_by(keys.column_names).aggregate([]).num_rows != table.num_rows:
            yield Defect(f"scores/{name}.parquet", "", "scores a candidate twice")
