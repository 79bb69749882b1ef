"""Columns of users' tables as ids and numbers: all spellings of a value give the same value."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ...errors import NbenchError, one_line
from ..metrics.arrays import Array

_MISSING = ("", "nan", "-nan", "null", "none", "na", "n/a", "<na>")
_EXACT = 2.0**53
"""From here on floating-point numbers cannot represent every whole number."""


def ids_of(column: pa.ChunkedArray, name: str, place: str, exact: bool = False) -> pa.DictionaryArray:
    """Ids as text without surrounding space; null where a cell is null, NaN or blank. exact: leave text unchanged.

    Raises:
        NbenchError: the column has neither text nor whole numbers.
    """
    array, kind = _flat(column), _kind(column)
    if not may_be_ids(kind):
        raise NbenchError(f"{place}: column {name} is of type {one_line(str(kind))}: give text or whole numbers")
    encoded = array if pa.types.is_dictionary(array.type) else array.cast(_plain(kind)).dictionary_encode()
    values = encoded.dictionary
    if _is_number(kind) and not pa.types.is_integer(kind):
        values = _whole(values, f"{place}: column {name}")
    texts = values.cast(pa.string())
    if not exact:
        texts = pc.utf8_trim_whitespace(texts)
        texts = pc.if_else(pc.equal(texts, ""), None, texts)
    return _recoded(encoded.indices, texts)


def may_be_ids(kind: pa.DataType) -> bool:
    """Whether a column of this type can hold ids: text or numbers."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return _is_number(kind) or _is_text(kind) or pa.types.is_null(kind)


def without_zero_fractions(ids: pa.DictionaryArray) -> pa.DictionaryArray:
    """Ids written as 5.0 become 5, if all ids are whole numbers."""
    texts = ids.dictionary
    if not pc.all(pc.match_substring_regex(texts, r"^-?\d+(\.0+)?$")).as_py():
        return ids
    return _recoded(ids.indices, pc.replace_substring_regex(texts, r"\.0+$", ""))


def numbers_of(column: pa.ChunkedArray, name: str, place: str, start: int = 0, lists: bool = False) -> Array:
    """Numbers float64 [M]; NaN where a cell is null, NaN, blank or a usual word for a missing value.

    Args:
        start: rows of the table before these, for errors.
        lists: a cell may be a list of numbers (as text: JSON); its value is the mean of the finite ones.

    Raises:
        NbenchError: the column has something other than numbers.
    """
    array, kind = _flat(column), _kind(column)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if _is_text(kind):
        return _from_texts(array.cast(pa.string()), name, place, start, lists)
    if lists and (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        values = numbers_of(pa.chunked_array([array.flatten()]), name, place, start)
        return _means(values, np.asarray(pc.list_parent_indices(array)), len(array))
    if not (
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind)
    ):
        raise NbenchError(f"{place}: column {name} is of type {one_line(str(kind))}: give numbers")
    try:
        return np.asarray(array.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)
    except pa.ArrowInvalid:
        raise NbenchError(f"{place}: column {name} has whole numbers beyond 2^53: scale them") from None


def equals(column: pa.ChunkedArray, text: str) -> NDArray[np.bool_]:
    """Where a column of any type equals this text, bool [M]."""
    array = _flat(column)
    if not _is_text(_kind(column)):
        return np.zeros(len(array), np.bool_)
    return np.asarray(pc.equal(array.cast(pa.string()), text).fill_null(False))


def _flat(column: pa.ChunkedArray) -> pa.Array:
    whole = column.unify_dictionaries().combine_chunks()
    return whole if isinstance(whole, pa.Array) else pa.concat_arrays(whole.chunks)


def _kind(column: pa.ChunkedArray) -> pa.DataType:
    return column.type.value_type if pa.types.is_dictionary(column.type) else column.type


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _plain(kind: pa.DataType) -> pa.DataType:
    """A type with the same values that can be dictionary-encoded."""
    if pa.types.is_floating(kind):
        return pa.float64()
    return kind if pa.types.is_integer(kind) or pa.types.is_decimal(kind) else pa.string()


def _whole(values: pa.Array, column: str) -> pa.Array:
    """Floating-point or decimal numbers as int64; NaN is null."""
    try:
        if pa.types.is_decimal(values.type):
            return values.cast(pa.int64())
        numbers = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
        missing = np.isnan(numbers)
        numbers = np.where(missing, 0, numbers)
        if not ((numbers == np.floor(numbers)) & (abs(numbers) < _EXACT)).all():
            raise pa.ArrowInvalid
        return pa.array(numbers.astype(np.int64), mask=missing)
    except pa.ArrowInvalid:
        raise NbenchError(f"{column} has numbers that are not whole, or too large: write them as text") from None


def _recoded(indices: pa.Array, texts: pa.Array) -> pa.DictionaryArray:
    """A dictionary array with distinct texts, and nulls as null indices."""
    once = texts.dictionary_encode()
    return pa.DictionaryArray.from_arrays(once.indices.take(indices), once.dictionary)


def _from_texts(texts: pa.Array, name: str, place: str, start: int, lists: bool) -> Array:
    texts = pc.utf8_trim_whitespace(texts)
    missing = pc.is_in(pc.utf8_lower(texts), pa.array(_MISSING))
    listed = pc.starts_with(texts, "[").fill_null(False) if lists else pa.array(np.zeros(len(texts), np.bool_))
    plain = pc.if_else(pc.or_(missing, listed), None, texts)
    try:
        numbers = np.array(plain.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)
    except pa.ArrowInvalid:
        row = next(row for row, text in enumerate(plain.to_pylist()) if text is not None and not _parses(text))
        raise _no_number(plain[row].as_py(), name, place, start + row, lists) from None
    for row in np.flatnonzero(listed).tolist():
        numbers[row] = _mean_of_json(texts[row].as_py(), name, place, start + row)
    return numbers


def _parses(text: str) -> bool:
    try:
        pa.scalar(text).cast(pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


def _mean_of_json(text: str, name: str, place: str, row: int) -> float:
    try:
        numbers = [float("nan") if number is None else number for number in json.loads(text)]
        if any(isinstance(number, bool) or not isinstance(number, int | float) for number in numbers):
            raise TypeError
        values = np.array(numbers, np.float64)
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise _no_number(text, name, place, row, True) from None
    return float(_means(values, np.zeros(len(values), np.intp), 1)[0])


def _means(values: Array, rows: NDArray[np.integer], count: int) -> Array:
    """Means [count] of the finite values of each row; NaN without any."""
    finite = np.isfinite(values)
    sums = np.bincount(rows[finite], values[finite], count)
    many = np.bincount(rows[finite], minlength=count)
    return np.divide(sums, many, out=np.full(count, np.nan), where=many > 0)


def _no_number(text: str, name: str, place: str, row: int, lists: bool) -> NbenchError:
    expected = "a number, or a list of numbers" if lists else "a number"
    return NbenchError(
        f"{place} row {row + 1}: {name} {one_line(text, 60)!r} is not {expected}: correct it or leave it empty"
    )
