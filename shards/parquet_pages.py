"""What the pages of a Parquet column decode to, from their headers alone: nothing is decompressed.

The metadata of a file may say less than its pages hold, and Arrow allocates what the pages say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, BinaryIO

_HEADER_BYTES = (2**8, 2**16)
"""Usual and largest header of a page; it may hold the smallest and largest value."""
_STOP, _TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 0, 1, 2, 3, 7, 8, 9, 10, 12
_DEEPEST = 8


@dataclass(frozen=True)
class DecodedSize:
    """Bytes of all pages, those of the dictionary among them, and the number of values outside of it."""

    bytes: int
    dictionary: int
    values: int


def decoded_size(file: BinaryIO, start: int, end: int) -> DecodedSize:
    """The size of the column chunk in the bytes from `start` to `end`.

    Raises:
        ValueError: a header of a page is damaged.
    """
    total = dictionary = values = 0
    while start < end:
        header, size = _header(file, start, end - start)
        try:
            decoded, compressed = header[2], header[3]
            counts = [header[page][1] for page in (5, 7, 8) if page in header]
        except (KeyError, TypeError):
            raise ValueError("a page has a damaged header") from None
        if decoded < 0 or compressed < 0 or any(count < 0 for count in counts):
            raise ValueError("a page claims a negative size")
        total += decoded
        dictionary += decoded if 7 in header else 0
        values += sum(counts) if 7 not in header else 0
        start += size + compressed
    return DecodedSize(total, dictionary, values)


def _header(file: BinaryIO, start: int, length: int) -> tuple[dict[int, Any], int]:
    """The fields of the header at `start`, and its size."""
    for longest in _HEADER_BYTES:
        file.seek(start)
        try:
            return _struct(file.read(min(longest, length)), 0)
        except IndexError:  # it goes on after these bytes, or is damaged
            continue
        except TypeError:
            break
    raise ValueError("a page has a damaged header")


def _struct(data: bytes, at: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """A struct in Thrift's compact protocol: its fields by id, and where it ends."""
    if depth > _DEEPEST:
        raise IndexError
    fields, number = dict[int, Any](), 0
    while (head := data[at]) & 15 != _STOP:
        at += 1
        if head >> 4:
            number += head >> 4
        else:
            number, at = _integer(data, at)
        fields[number], at = _value(data, at, head & 15, depth)
    return fields, at + 1


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (_TRUE, _FALSE):
        return kind == _TRUE, at
    if kind == _BYTE:
        return data[at], at + 1
    if kind == _DOUBLE:
        return None, at + 8
    if kind == _BINARY:
        size, at = _varint(data, at)
        return None, at + size
    if kind in (_LIST, _SET):
        return _list(data, at, depth)
    return _struct(data, at, depth + 1) if kind == _STRUCT else _integer(data, at)


def _list(data: bytes, at: int, depth: int) -> tuple[None, int]:
    head, at = data[at], at + 1
    count = head >> 4
    if count == 15:
        count, at = _varint(data, at)
    for _ in range(count):
        if at >= len(data):
            raise IndexError
        flag = (head & 15) in (_TRUE, _FALSE)
        at = at + 1 if flag else _value(data, at, head & 15, depth + 1)[1]
    return None, at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte, at = data[at], at + 1
        number |= (byte & 127) << shift
        shift += 7
        if shift > 70:  # more than 64 bits
            raise IndexError
        if byte < 128:
            return number, at


def _integer(data: bytes, at: int) -> tuple[int, int]:
    number, at = _varint(data, at)
    return number >> 1 ^ -(number & 1), at
