"""Shards as WebDataset: a tar in which consecutive members with one key are a trajectory.

`00000012.meta.json`, `00000012.image.png`, `00000012.x20.npy`, and for other signals `.x0_20.npy`, `.x0at2_20.npy`,
`.cfg_gap.npy`, `.act_LAYER_20.npy`, `.att_LAYER_20.npy`. The key is the row number, so that no name from the data
becomes a path. The decoders of the `webdataset` package read all members.
"""

from __future__ import annotations

import io
import json
import math
import re
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from ..errors import NbenchError, reason_of
from . import atomic
from .row_columns import array_columns, arrow_schema
from .schema import DatasetInfo
from .signals import ArrayColumn
from .writer import ShardWriter

_MEMBER = re.compile(
    r"(\d{8,12})\.(meta\.json|image\.png|(?:x|x0_|x0at\d{1,2}_|a(?:ct|tt)_[A-Za-z0-9_]{1,72}_)\d{2,6}\.npy|cfg_gap\.npy)"
)
_MAX_META, _MAX_IMAGE = 64 * 2**20, 256 * 2**20
_NPY_HEADER = 4096


class TarShardWriter(ShardWriter):
    """Members have no owner and no date, so the same rows give the same bytes. A null value has no member."""

    def __init__(self, folder: Path, info: DatasetInfo, index: int) -> None:
        super().__init__(folder, info, index)
        self._tar = tarfile.open(atomic.temporary(self._path), "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115

    def _append(self, rows: pa.RecordBatch) -> None:
        members = {name: column for name, column in array_columns(self.info).items() if not column.scale}
        arrays = {column.member: _arrays(rows[name], column.shape) for name, column in members.items()}
        plain = [name for name in rows.schema.names if name not in members and name != "image"]
        first = self.info.shard_rows(self.index).start + self._rows
        for i, row in enumerate(rows.select(plain).to_pylist()):
            key = f"{first + i:08d}"
            image = rows["image"][i].as_py()
            self._add(f"{key}.meta.json", json.dumps(row, ensure_ascii=False).encode())
            if image is not None and image["bytes"] is not None:
                self._add(f"{key}.image.png", image["bytes"])
            if row["status"] == "ok":
                for member, values in arrays.items():
                    self._add(f"{key}.{member}", _npy(values[i]))

    def _finish(self) -> None:
        self._tar.close()

    def _close(self) -> None:
        self._tar.close()

    def _add(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self._tar.addfile(member, io.BytesIO(data))


def read_tar(
    source: Path | BinaryIO, info: DatasetInfo, columns: Sequence[str], batch_size: int
) -> Iterator[pa.RecordBatch]:
    """The rows of a shard with `columns` only; other members are skipped. Nothing is unpacked to disk.

    Raises:
        NbenchError: a member has a name, size or content that no shard has.
    """
    schema = arrow_schema(info)
    schema = pa.schema([schema.field(name) for name in columns], schema.metadata)
    rows: list[dict[str, Any]] = []
    for row in _rows(source, info, set(columns)):
        rows.append(row)
        if len(rows) == batch_size:
            yield _to_arrow(rows, schema)
            rows = []
    if rows:
        yield _to_arrow(rows, schema)


def tar_misfit(file: BinaryIO, info: DatasetInfo, index: int) -> str:
    """How the first key of a file differs from that of shard `index`; "" if it does not."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            first = tar.next()
    except tarfile.TarError as error:
        return f"cannot be opened ({error})"
    prefix = f"{info.shard_rows(index).start:08d}."
    return "" if first and first.name.startswith(prefix) else f"does not begin with key {prefix[:-1]}"


def _rows(source: Path | BinaryIO, info: DatasetInfo, columns: set[str]) -> Iterator[dict[str, Any]]:
    arrays = {name: column for name, column in array_columns(info).items() if name in columns and not column.scale}
    wanted = {column.member: (name, column) for name, column in arrays.items()}
    key, row = "", dict[str, Any]()
    with (
        source.open("rb") if isinstance(source, Path) else nullcontext(source) as file,
        tarfile.open(fileobj=file, mode="r:") as tar,
    ):
        for member in tar:
            match = _MEMBER.fullmatch(member.name)
            if match is None or not member.isreg() or member.issparse() or member.size < 0:
                raise NbenchError(f"{_name(source)} has a member {member.name[:80]!r}, which no shard of nbench has")
            if match[1] != key:
                if key:
                    yield row
                key, row = match[1], {}
            if match[2] == "meta.json":
                row |= _meta(_bytes(tar, member, _MAX_META, source), f"{_name(source)}: {member.name}")
            elif match[2] == "image.png" and "image" in columns:
                row["image"] = {"bytes": _bytes(tar, member, _MAX_IMAGE, source)}
            elif match[2] in wanted:
                name, column = wanted[match[2]]
                data = _bytes(tar, member, 4 * math.prod(column.shape) + _NPY_HEADER, source)
                row[name] = _load_npy(data, column, f"{_name(source)}: {member.name}")
            tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every member it has read: a leak in a long stream
    if key:
        yield row


def _bytes(tar: tarfile.TarFile, member: tarfile.TarInfo, limit: int, source: Path | BinaryIO) -> bytes:
    if member.size > limit:
        raise NbenchError(f"{_name(source)}: {member.name} has {member.size} bytes, more than the allowed {limit}")
    file = tar.extractfile(member)
    data = file.read() if file else b""
    if len(data) != member.size:
        raise NbenchError(f"{_name(source)} ends in the middle of {member.name}: the file is cut short")
    return data


def _meta(data: bytes, place: str) -> dict[str, Any]:
    try:
        meta = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise NbenchError(f"{place} is not JSON ({reason_of(error)})") from None
    if not isinstance(meta, dict):
        raise NbenchError(f"{place} is not a JSON object")
    return meta


def _load_npy(data: bytes, column: ArrayColumn, place: str) -> np.ndarray:
    file = io.BytesIO(data)
    try:
        # the header first: numpy allocates whatever it claims
        first = np.lib.format.read_magic(file) == (1, 0)
        header = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
        shape, _, kind = header(file)
        if kind.hasobject:
            raise ValueError("it holds Python objects")
        if shape == tuple(column.shape) and kind == np.dtype(column.element):
            return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False).reshape(-1)
    except Exception as error:  # numpy evaluates the header; a garbled one can raise any type
        raise NbenchError(f"{place} is not an array ({reason_of(error)})") from None
    raise NbenchError(f"{place} holds {kind} {list(shape)}, not {column.element} {list(column.shape)}")


def _to_arrow(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    try:
        arrays = [_column([row.get(field.name) for row in rows], field.type) for field in schema]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise NbenchError(f"a trajectory's meta.json is invalid: {reason_of(error)}") from None


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    """An Arrow array of row values; numpy arrays (signals) are concatenated, not converted one number at a time."""
    present = [value for value in values if value is not None]
    if not present or not isinstance(present[0], np.ndarray):
        return pa.array(values, kind)
    missing = np.array([value is None for value in values])
    joined = np.concatenate([np.zeros_like(present[0]) if value is None else value for value in values])
    return pa.FixedSizeListArray.from_arrays(pa.array(joined), kind.list_size, mask=pa.array(missing))


def _arrays(column: pa.Array, shape: tuple[int, ...]) -> np.ndarray:
    """The arrays of rows [B, *shape] as stored; undefined for failed rows."""
    values = column.values[column.offset * column.type.list_size :][: len(column) * column.type.list_size]
    return values.to_numpy(zero_copy_only=False).reshape(len(column), *shape)


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _name(source: Path | BinaryIO) -> str:
    return str(source if isinstance(source, Path) else getattr(source, "path", "the shard"))
