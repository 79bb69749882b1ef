"""Progress in plain lines without a terminal."""

import time

import pytest

from nbench import progress
from nbench.progress import BuildProgress


def lines(capsys: pytest.CaptureFixture[str], total: int, pause: float = 0.0) -> list[str]:
    with BuildProgress("made", total) as progress:
        for _ in range(total):
            time.sleep(pause)
            progress.advance(1)
    return capsys.readouterr().err.splitlines()


def test_a_line_at_each_tenth_of_the_way(capsys: pytest.CaptureFixture[str]) -> None:
    printed = lines(capsys, 100)
    assert [line.split(",")[0] for line in printed] == [f"made: {count}/100" for count in range(10, 101, 10)]


def test_lines_in_between_where_a_tenth_takes_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_SECONDS", 0.0)
    assert len(lines(capsys, 20, pause=0.001)) == 20


def test_slow_work_has_a_rate_too(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = lines(capsys, 1, pause=1.5)
    assert 0 < float(line.split()[2].removesuffix("/s,")) < 1
