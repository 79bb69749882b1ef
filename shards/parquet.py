"""Shards as Parquet: one row per trajectory, one column per position."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from . import atomic
from .parquet_pages import decoded_size
from .row_columns import array_columns, arrow_schema
from .schema import BYTES, DatasetInfo
from .writer import ShardWriter

ROW_GROUP_BYTES = 64 * 2**20
_MAX_BYTES = 2**31
"""Size limit of a text or image column in a row group: Arrow's own."""
_PAGE_BYTES = 2**20
"""Allowance for page headers and levels in a row group."""
_HOLE_BYTES = 8 * 2**10
"""Unwanted bytes up to which two columns are fetched in one request."""


class ParquetShardWriter(ShardWriter):
    """Latents are byte-stream-split, which groups the exponents of floats, then zstd-compressed.

    Row groups are bounded by bytes. Neither they nor the shard's bytes depend on the batches written.
    """

    def __init__(self, folder: Path, info: DatasetInfo, index: int) -> None:
        super().__init__(folder, info, index)
        self._schema = arrow_schema(info, index)
        self._group_rows = max(1, ROW_GROUP_BYTES // info.row_bytes)
        self._waiting: list[pa.RecordBatch] = []
        numbers = {name: column for name, column in array_columns(info).items() if not column.scale}
        # Parquet's smallest integer has 32 bits, but an index into 255 values has 8
        dictionary = info.int8_encoding == "dictionary"
        dictionaries = [name for name, column in numbers.items() if dictionary and column.element == "int8"]
        self._writer = pq.ParquetWriter(
            atomic.temporary(self._path),
            self._schema,
            compression="zstd",
            use_dictionary=["prompt_id", "prompt", "status", *map(_element, dictionaries)],
            column_encoding={
                _element(name): "PLAIN" if column.element == "int8" else "BYTE_STREAM_SPLIT"
                for name, column in numbers.items()
                if name not in dictionaries
            },
            write_statistics=["id", "prompt_id", "candidate", "seed", "status"],
            write_page_index=True,
        )

    def _append(self, rows: pa.RecordBatch) -> None:
        self._waiting.append(rows)
        while sum(map(len, self._waiting)) >= self._group_rows:
            self._flush(self._group_rows)

    def _finish(self) -> None:
        self._flush(self._group_rows)
        self._writer.close()

    def _close(self) -> None:
        self._writer.close()

    def _flush(self, rows: int) -> None:
        table = pa.Table.from_batches([batch.cast(self._schema) for batch in self._waiting], self._schema)
        if table.num_rows:
            self._writer.write_table(table.slice(0, rows).combine_chunks(), row_group_size=rows)
        self._waiting = table.slice(rows).to_batches()


def _element(column: str) -> str:
    return f"{column}.list.element"


def read_parquet(
    source: Path | BinaryIO, info: DatasetInfo, columns: Sequence[str], batch_size: int
) -> Iterator[pa.RecordBatch]:
    """The rows of a shard with `columns` only; one row group is in memory at a time, and nothing else is read.

    Raises:
        ValueError: a column is missing, has another type, or is larger than the record allows; raised before it is
            decoded.
    """
    texts = [name for name in columns if pa.types.is_string(arrow_schema(info).field(name).type)]
    with ExitStack() as stack:
        local = stack.enter_context(source.open("rb", buffering=0)) if isinstance(source, Path) else None
        try:
            file = stack.enter_context(pq.ParquetFile(source, read_dictionary=texts))
        except KeyError as error:
            raise ValueError(f"it has no column {error.args[0].decode()}") from None
        _check_columns(file.schema_arrow, info, columns)
        for number in range(file.num_row_groups):
            group, pages, rows_of = file.metadata.row_group(number), local, file
            _check_sizes(group, info, columns, pages)
            if not isinstance(source, Path):
                pages = pa.BufferReader(_fetched(source, group, columns))
                _check_sizes(group, info, columns, pages)
                rows_of = pq.ParquetFile(pages, metadata=file.metadata, read_dictionary=texts)
            for rows in rows_of.iter_batches(batch_size, row_groups=[number], columns=list(columns)):
                yield _without_dictionaries(rows.select(list(columns)))


def _fetched(file: BinaryIO, group: pq.RowGroupMetaData, columns: Sequence[str]) -> pa.Buffer:
    """The bytes of `columns` at their places in the file; the rest is never touched, and so takes no memory.

    Arrow's own reading ahead would hold the file in threads that Python does not wait for: one that lets go of it as
    the interpreter ends aborts the process.

    Raises:
        ValueError: the file ends before them.
    """
    size, spans = file.seek(0, 2), list[tuple[int, int]]()
    for start, end in sorted(map(_span, _chunks(group, columns))):
        if not 0 <= start <= end <= size:
            raise ValueError(f"a column claims bytes {start:,} to {end:,} of {size:,}")
        if spans and start <= spans[-1][1] + _HOLE_BYTES:
            before = spans.pop()
            start, end = before[0], max(before[1], end)
        spans.append((start, end))
    content = pa.allocate_buffer(size)
    view = memoryview(content).cast("B")
    for start, end in spans:
        file.seek(start)
        data = file.read(end - start)
        if len(data) != end - start:
            raise ValueError("it is cut short")
        view[start:end] = data
    return content


def _chunks(group: pq.RowGroupMetaData, columns: Sequence[str]) -> Iterator[pq.ColumnChunkMetaData]:
    for chunk in map(group.column, range(group.num_columns)):
        if _name(chunk) in columns:
            yield chunk


def _name(chunk: pq.ColumnChunkMetaData) -> str:
    return chunk.path_in_schema.partition(".")[0]


def _span(chunk: pq.ColumnChunkMetaData) -> tuple[int, int]:
    """Where the bytes of a column chunk start and end in its file."""
    start = min(offset for offset in (chunk.dictionary_page_offset, chunk.data_page_offset) if offset)
    return start, start + chunk.total_compressed_size


def _check_columns(schema: pa.Schema, info: DatasetInfo, columns: Sequence[str]) -> None:
    expected = arrow_schema(info)
    for name in columns:
        index, kind = schema.get_field_index(name), expected.field(name).type
        if index < 0:
            raise ValueError(f"it has no column {name}, or more than one")
        found = schema.field(index).type
        if (found.value_type if pa.types.is_dictionary(found) else found) != kind:
            raise ValueError(f"its column {name} is {found}, not {kind}")


def _without_dictionaries(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Rows with texts instead of dictionaries, in which one long text can stand in every row."""
    arrays = []
    for name, array in zip(rows.schema.names, rows.columns, strict=True):
        if pa.types.is_dictionary(array.type):
            size = pc.sum(pc.binary_length(array.dictionary).cast(pa.int64()).take(array.indices)).as_py() or 0
            if size > _MAX_BYTES:
                raise ValueError(f"its column {name} holds {size:,} bytes of text in {len(rows):,} rows")
            array = array.cast(array.type.value_type)
        arrays.append(array)
    return pa.RecordBatch.from_arrays(arrays, rows.schema.names, metadata=rows.schema.metadata)


def _check_sizes(group: pq.RowGroupMetaData, info: DatasetInfo, columns: Sequence[str], pages: BinaryIO | None) -> None:
    """Refuse claimed sizes that are too large: a small file can claim a huge column, and Arrow would allocate it.

    pages: the file, if the headers of its pages are looked at, too.
    """
    if not 0 <= group.num_rows <= info.rows_per_shard:
        raise ValueError(f"a row group of {group.num_rows} rows in a shard of at most {info.rows_per_shard}")
    arrays = array_columns(info)
    for chunk in _chunks(group, columns):
        name, numbers, limit = _name(chunk), 0, _MAX_BYTES
        array = arrays.get(name)
        if array:
            width = 4 if array.element == "int8" else BYTES[array.element]  # Parquet's smallest integer has 32 bits
            numbers = group.num_rows * math.prod(array.shape)
            limit = 2 * numbers * width + _PAGE_BYTES
        size, values = chunk.total_uncompressed_size, chunk.num_values
        if pages is not None:
            decoded = decoded_size(pages, *_span(chunk))
            size, values = max(size, decoded.bytes), max(values, decoded.values)
            if not array and "." in chunk.path_in_schema:  # every value may be the longest of the dictionary
                size = max(size, decoded.dictionary * decoded.values)
        if size > limit or (array and values > numbers + group.num_rows):
            raise ValueError(f"its column {name} claims to hold {size:,} bytes")


def parquet_misfit(file: BinaryIO, info: DatasetInfo, index: int) -> str:
    """How the columns and metadata of a file differ from those of shard `index`; "" if they do not."""
    schema, expected = pq.read_schema(file), arrow_schema(info, index)
    if not schema.equals(expected):
        return "its columns are not those of the data set"
    return "" if schema.metadata == expected.metadata else "its metadata belong to another shard or data set"
