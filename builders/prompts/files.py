"""Prompts in files: CSV, TSV, JSONL, Parquet and text, or on standard input."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from ...errors import NbenchError, one_line, reason_of
from .rows import Table
from .text_rows import DELIMITERS, JSON_LINES, json_rows, opened, separated

_Row = dict[str, Any]
_Reader = Callable[[TextIO, str], Iterator[_Row]]


def file_table(path: Path) -> Table:
    """The rows of a file, read by its suffix; a file with another suffix is text with one prompt per line.

    Raises:
        NbenchError: the file is unreadable, empty, or not in the format of its suffix.
    """
    place, kind = str(path), path.suffix.lower()
    if kind == ".json":
        raise NbenchError(f"cannot read prompts from {place}: write one JSON object per line, and call the file .jsonl")
    return _parquet(path, place) if kind == ".parquet" else _scanned(path, place, READERS.get(kind, _lines))


def stdin_table() -> Table:
    """The rows on standard input: JSONL where the first character is a brace, else one prompt per line.

    Raises:
        NbenchError: there are none, or they are not UTF-8.
    """
    buffer = tempfile.TemporaryFile()  # noqa: SIM115  # read more than once, and closed with the table
    shutil.copyfileobj(sys.stdin.buffer, buffer)
    buffer.seek(0)
    start = buffer.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    return _scanned(buffer, "standard input", json_rows if start.startswith(b"{") else _lines)


def _scanned(file: Path | BinaryIO, place: str, reader: _Reader) -> Table:
    """A table of text, read once to check it, list its columns and count its rows."""

    def read(names: Sequence[str]) -> Iterator[_Row]:
        with _reading(place), opened(file) as text:
            yield from reader(text, place)

    columns, count = dict[str, None](), 0
    for row in read(()):
        columns.update(dict.fromkeys(row))
        count += 1
    return Table("file", place, tuple(columns), read, _digits(count, place))


def _parquet(path: Path, place: str) -> Table:
    def read(names: Sequence[str]) -> Iterator[_Row]:
        with _reading(place), pq.ParquetFile(path) as file:
            for batch in file.iter_batches(4096, columns=list(names)):
                yield from batch.to_pylist()

    with _reading(place), pq.ParquetFile(path) as file:
        columns, count = tuple(file.schema_arrow.names), file.metadata.num_rows
    if twice := next((name for name in columns if columns.count(name) > 1), None):
        raise NbenchError(f"{place} has two columns {one_line(twice)}: rename or remove one")
    return Table("file", place, columns, read, _digits(count, place))


def _digits(count: int, place: str) -> int:
    if not count:
        raise NbenchError(f"prompt file {place} is empty: it needs at least one prompt")
    return len(str(count - 1))


@contextmanager
def _reading(place: str) -> Iterator[None]:
    try:
        yield
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise NbenchError(f"cannot read prompts from {place}: {reason_of(error)}") from None


def _separated(file: TextIO, place: str, delimiter: str) -> Iterator[_Row]:
    header, rows = separated(file, delimiter, place)
    for cells in rows:
        yield {name: cell or None for name, cell in zip(header, cells, strict=True)}


def _lines(file: TextIO, place: str) -> Iterator[_Row]:
    for line in file:
        if text := line.strip():
            yield {"prompt": text}


READERS: dict[str, _Reader] = {
    **{kind: partial(_separated, delimiter=delimiter) for kind, delimiter in DELIMITERS.items()},
    **dict.fromkeys(JSON_LINES, json_rows),
    ".txt": _lines,
}
SUFFIXES = (*READERS, ".json", ".parquet")
"""Suffixes that only the name of a file has."""
