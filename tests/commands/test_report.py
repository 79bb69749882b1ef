"""nbench report as a user runs it: its files, its messages and its errors."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ..conftest import Run
from ..small_bench import make_bench
from .test_results import V1


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One result, in a folder of its own; the bench it is of is not there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results" / "small").mkdir(parents=True)
    shutil.copy(V1, tmp_path / "results" / "small" / "old.json")
    return tmp_path / "results"


def test_an_old_result_without_its_bench_makes_a_page_without_trajectories(run: Run, results: Path) -> None:
    code, out, err = run("report")
    assert code == 0
    assert out.startswith("written: report/index.html (1 model, 0 of ")
    assert "is not here; name it with --bench" in err
    assert Path("report/index.html").read_text().startswith("<!doctype html>")


def test_a_space_alone_is_written_where_it_is_asked_for(run: Run, results: Path) -> None:
    code, _, _ = run("report", results, "--space", "space", "--prompts", "0")
    assert code == 0
    assert {path.name for path in Path("space").iterdir()} == {"index.html", "README.md"}
    assert not Path("report").exists()


def test_what_cannot_be_is_refused_in_one_line(run: Run, results: Path, tmp_path: Path) -> None:
    make_bench(tmp_path / "other")
    Path("file").touch()
    for arguments, reason in (
        (("nowhere",), "nowhere"),
        (("--prompts", "-1"), "--prompts -1 is out of range"),
        (("--bench", tmp_path / "other"), "is not the build of"),
        (("--bench", tmp_path / "none"), "no bench at"),
        (("--out", "file"), "cannot write file/index.html"),
    ):
        code, out, err = run("report", *arguments)
        assert (code, out) == (2, "")
        assert reason in err.splitlines()[-1]
