"""Table files read in batches: Parquet, CSV, TSV and JSON Lines."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ...builders.prompts.text_rows import DELIMITERS, JSON_LINES, json_rows, opened, separated
from ...errors import NbenchError, reason_of

_BATCH_ROWS = 2**17


def table_batches(path: Path, columns: Collection[str]) -> Iterator[pa.Table]:
    """The rows of a file in batches; the first batch has all columns and no rows. Cells of CSV and TSV are text.

    Args:
        columns: the columns to read; missing ones are skipped.

    Raises:
        NbenchError: no such file, or it is damaged or of another kind.
    """
    kind = path.suffix.lower()
    with _one_line(path):
        if kind in JSON_LINES:
            yield from _json_batches(path, columns)
        elif kind in DELIMITERS:
            yield from _separated_batches(path, DELIMITERS[kind], columns)
        else:
            yield from _parquet_batches(path, columns)


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    try:
        yield
    except NbenchError:
        raise
    except FileNotFoundError:
        raise NbenchError(f"no file at {path}: give a table (.parquet, .csv, .tsv or .jsonl)") from None
    except Exception as error:  # readers raise all kinds of exceptions for damaged bytes
        raise NbenchError(f"cannot read {path}: {reason_of(error)}") from None


def _parquet_batches(path: Path, columns: Collection[str]) -> Iterator[pa.Table]:
    with path.open("rb") as file:
        if path.suffix.lower() != ".parquet" and file.read(4) != b"PAR1":
            raise NbenchError(
                f"cannot read {path}: it is not Parquet, and its name ends in neither .csv, .tsv nor .jsonl"
            )
    schema = pq.read_schema(path)
    yield schema.empty_table()
    names = [name for name in schema.names if name in columns]
    texts = [name for name in names if pa.types.is_string(schema.field(name).type)]
    with pq.ParquetFile(path, read_dictionary=texts) as file:
        for batch in file.iter_batches(_BATCH_ROWS, columns=names):
            batch.validate(full=True)
            yield pa.Table.from_batches([batch])


def _separated_batches(path: Path, delimiter: str, columns: Collection[str]) -> Iterator[pa.Table]:
    with opened(path) as text:
        header, rows = separated(text, delimiter, str(path))
        yield pa.table({name: pa.array([], pa.string()) for name in header})
        while batch := list(islice(rows, _BATCH_ROWS)):
            cells = zip(header, zip(*batch, strict=True), strict=True)
            yield pa.table({name: pa.array(values, pa.string()) for name, values in cells if name in columns})


def _json_batches(path: Path, columns: Collection[str]) -> Iterator[pa.Table]:
    with opened(path) as text:
        rows = json_rows(text, str(path), '{"prompt_id": ..., "candidate": ..., "score": ...}')
        first = True
        while batch := list(islice(rows, _BATCH_ROWS)):
            names = list(dict.fromkeys(name for row in batch for name in row))
            if first:
                yield pa.table({name: pa.nulls(0) for name in names})
            first = False
            yield pa.table({n: _json_column([row.get(n) for row in batch]) for n in names if n in columns})


def _json_column(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError):  # text and numbers in one column: written as in a CSV
        return pa.array([value if value is None or isinstance(value, str) else json.dumps(value) for value in values])
