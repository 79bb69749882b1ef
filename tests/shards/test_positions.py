"""Positions as people write them."""

from __future__ import annotations

import doctest
import tracemalloc

import pytest

from nbench.errors import NbenchError
from nbench.shards import positions
from nbench.shards.positions import describe_positions, parse_positions


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", tuple(range(51))),
        ("20,30", (20, 30)),
        ("30, 20,20", (20, 30)),
        ("20:24", (20, 21, 22, 23, 24)),
        ("0:50:5", tuple(range(0, 51, 5))),
        ("0:49:5", tuple(range(0, 50, 5))),
        ("50", (50,)),
        ("0:10:10,48:50", (0, 10, 48, 49, 50)),
    ],
)
def test_parse(text: str, expected: tuple[int, ...]) -> None:
    assert parse_positions(text, 50) == expected


@pytest.mark.parametrize("text", ["", "x", "1,", "-1", "5:3", "0:50:0", "1:2:3:4", "1.5", "all,3"])
def test_not_understood(text: str) -> None:
    with pytest.raises(NbenchError, match="not understood"):
        parse_positions(text, 50)


@pytest.mark.parametrize("text", ["0:99999999999999", "99999999999999", "5:999999999999999:2", "0:10:1,7:99999999999"])
def test_far_beyond_the_run_takes_no_memory(text: str) -> None:
    tracemalloc.start()
    with pytest.raises(NbenchError, match=r"not in a run of 50 steps: it has 0\.\.50"):
        parse_positions(text, 50)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    with pytest.raises(NbenchError, match=r"positions '9{100}\.\.\.' not understood"):
        parse_positions("9" * 5000, 50)


def test_beyond_the_run() -> None:
    with pytest.raises(NbenchError, match=r"^latents 60 not in a run of 50 steps: it has 0\.\.50$"):
        parse_positions("20,60", 50)


def test_described() -> None:
    assert describe_positions(range(51)) == "0..50"
    assert describe_positions(range(0, 51, 5)) == "0..50 (every 5th)"
    assert describe_positions([20]) == "20"
    assert doctest.testmod(positions).failed == 0
