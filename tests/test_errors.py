"""Error messages: one printable line for any exception."""

from __future__ import annotations

import doctest
from types import ModuleType

import pytest

from nbench import console, errors
from nbench.errors import NbenchError, check_range, reason_of


@pytest.mark.parametrize("module", [console, errors])
def test_the_examples_of_the_docstrings(module: ModuleType) -> None:
    assert doctest.testmod(module).attempted > 0
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(28, "No space left on device", "x.parquet"), "No space left on device"),
        (RuntimeError("first line\n  second line"), "first line second line"),
        (ValueError("\x1b[31mred\x07 \u202e"), r"\x1b[31mred\x07 \u202e"),
        (RuntimeError(), "RuntimeError"),
        (ValueError("a" * 500), "a" * 400 + "..."),
    ],
)
def test_reasons_are_one_printable_line(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason


def test_ranges_include_their_ends_and_refuse_what_is_no_number() -> None:
    check_range("--keep", 1, 1, 6)
    check_range("--keep", 6, 1, 6)
    check_range("--keep", None, 1, 6)
    with pytest.raises(NbenchError, match=r"^--limit 9{40}\.\.\. is out of range: give 1\.\.2147483647$"):
        check_range("--limit", 10**400 - 1)
    for value in (0, 7, float("nan")):
        with pytest.raises(NbenchError, match=rf"^--keep {value} is out of range: give 1\.\.6$"):
            check_range("--keep", value, 1, 6)
