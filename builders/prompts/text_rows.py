"""Rows of text tables: CSV, TSV and JSON Lines; ambiguous files are refused."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from ...errors import NbenchError, one_line, reason_of

DELIMITERS = {".csv": ",", ".tsv": "\t"}
"""What separates cells, by the ending of the file's name."""
JSON_LINES = (".jsonl", ".ndjson")


@contextmanager
def opened(file: Path | BinaryIO) -> Iterator[TextIO]:
    """A file as UTF-8 text with its own line ends; one that is open already stays open, and is read from its start."""
    if isinstance(file, Path):
        with file.open(encoding="utf-8-sig", newline="") as text:
            yield text
        return
    file.seek(0)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    try:
        yield text
    finally:
        text.detach()  # or the file would be closed with it


def separated(text: TextIO, delimiter: str, place: str) -> tuple[list[str], Iterator[list[str]]]:
    """The header, and the rows' cells, as many in each as in the header; blank lines are skipped.

    CSV is quoted as in RFC 4180. A TSV may be, too; if it is not, each line is a row and quotes are characters, except
    around a whole cell. `text` is at its start; a TSV is read twice more to tell which.

    Raises:
        NbenchError: two columns of the same name, a row with more or fewer cells than the header, a quote that is never
            closed, text after one that is, or a TSV with other rows if it is quoted than if it is not.
    """
    by_lines = delimiter == "\t" and not _is_quoted_tsv(text, place)
    lines = _tab_separated(text) if by_lines else _quoted(text, delimiter, place)
    header = next((cells for cells in lines if cells), [])
    other = next((mark for mark in ";\t" if delimiter == "," and len(header) == 1 and mark in header[0]), None)
    if other is not None:
        raise NbenchError(
            f"{place} separates its cells by {other!r}: write it with commas, or tabs and the ending .tsv"
        )
    twice = next((name for name in header if name and header.count(name) > 1), None)
    if twice is not None:
        raise NbenchError(f"{place} has two columns {one_line(twice)}: rename or remove one")
    return header, _rows(lines, header, place)


def _rows(lines: Iterator[list[str]], header: Sequence[str], place: str) -> Iterator[list[str]]:
    for number, cells in enumerate(filter(None, lines), 1):
        if len(cells) > len(header):
            raise NbenchError(f"{place} row {number} has more cells than the header: put texts in double quotes")
        if len(cells) < len(header):
            problem = f"{place} row {number} has fewer cells than the header ({len(cells)} of {len(header)})"
            raise NbenchError(f"{problem}: add the empty ones")
        if cells == header:
            raise NbenchError(f"{place} row {number} repeats the header: remove it")
        yield cells


def _quoted(text: TextIO, delimiter: str, place: str) -> Iterator[list[str]]:
    lines = csv.reader(text, delimiter=delimiter, strict=True)
    try:
        yield from lines
    except csv.Error as error:
        why = "a quote is never closed" if "end of data" in str(error) else reason_of(error)
        where = f"cannot read {place} at line {lines.line_num}"
        raise NbenchError(f"{where}: {why}; close it, and double the quotes within quoted texts") from None


def _is_quoted_tsv(text: TextIO, place: str) -> bool:
    """Whether only quoting as in RFC 4180 gives every row of a TSV as many cells as the header."""
    by_lines = _count(_tab_separated(text))
    text.seek(0)
    quoted = _count(csv.reader(text, delimiter="\t", strict=True))
    text.seek(0)
    if None not in (by_lines, quoted) and by_lines != quoted:
        raise NbenchError(f"{place} has {by_lines} rows, or {quoted} if quotes span lines: write it as CSV")
    return by_lines is None and quoted is not None


def _count(lines: Iterator[list[str]]) -> int | None:
    """Number of rows; None if they are not all of the same length."""
    try:
        lengths = Counter(len(cells) for cells in lines if cells)
    except csv.Error:
        return None
    return lengths.total() - 1 if len(lengths) == 1 else None


def _tab_separated(text: TextIO) -> Iterator[list[str]]:
    for line in text:
        if stripped := line.rstrip("\r\n"):
            yield [_unquoted(cell) for cell in stripped.split("\t")]


def _unquoted(cell: str) -> str:
    if len(cell) < 2 or not cell[0] == cell[-1] == '"':
        return cell
    inner = cell[1:-1]
    return cell if '"' in inner.replace('""', "") else inner.replace('""', '"')


def json_rows(text: TextIO, place: str, example: str = '{"prompt": "..."}') -> Iterator[dict[str, Any]]:
    """The object in each line; blank lines are skipped.

    Raises:
        NbenchError: a line is not a JSON object.
    """
    for number, line in enumerate(text, 1):
        if line.strip():
            yield json_object(line, f"{place} line {number}", example)


def json_object(text: str, place: str, example: str = '{"prompt": "..."} or {"basic": [...]}') -> dict[str, Any]:
    """The JSON object in `text`.

    Raises:
        NbenchError: it is not a JSON object, or repeats a key.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            twice = next(name for number, (name, _) in enumerate(pairs) if name in dict(pairs[:number]))
            raise NbenchError(f"{place} has two values {one_line(twice)}: rename or remove one")
        return fields

    try:
        value = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise NbenchError(f"{place}: not a JSON object: write {example}")
    return value


def is_missing(value: object) -> bool:
    """Whether a cell has no value: null, an empty text or NaN."""
    return value is None or value == "" or (isinstance(value, float) and value != value)
