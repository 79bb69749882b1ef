"""Text from data in CSV is text in a spreadsheet, too."""

from __future__ import annotations

import pytest

from nbench.benchmarks.results.formats import _csv


@pytest.mark.parametrize("name", ["-1", "=A1", "+1", "@x", "\tx", "\rx", " =1", "\uff1d1"])
def test_text_that_looks_like_a_formula_begins_with_an_apostrophe(name: str) -> None:
    assert _csv(name) == f"'{name}"


@pytest.mark.parametrize("name", ["", "a", "noisyclip", "a=1", "(random)", "1-2"])
def test_other_text_stays(name: str) -> None:
    assert _csv(name) == name
