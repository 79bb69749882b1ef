"""In what two folders of results differ."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from nbench.benchmarks.results.diff import diff_results
from nbench.benchmarks.results.result_file import result_path, write_result
from nbench.shards.scores import SCORE_SCHEMA, write_scores

from ...conftest import Run
from .test_leaderboard import result


def scores(path: Path, *values: float) -> None:
    count = len(values)
    table = {"prompt_id": ["p"] * count, "candidate": range(count), "position": [5] * count}
    cells = {"caption": ["prompt"] * count, "score": values, "status": ["ok"] * count}
    write_scores(path, pa.table({**table, **cells}, SCORE_SCHEMA), {})


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two equal folders of results of two models."""
    for model in ("clip", "noisyclip"):
        write_result(result_path(tmp_path / "a", "small", model), result(model, {0: 0.0, 5: 0.25, 10: 0.75}))
        scores(result_path(tmp_path / "a", "small", model, ".parquet"), 0.5, 0.25)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    return tmp_path / "a", tmp_path / "b"


def test_when_and_where_do_not_count_but_figures_do(pair: tuple[Path, Path]) -> None:
    a, b = pair
    path = result_path(b, "small", "clip")
    changed = result("clip", {0: 0.0, 5: 0.5, 10: 0.75})
    versions = changed.provenance.model_copy(
        update={"started": "2030-01-01T00:00:00+00:00", "packages": {"torch": "9"}}
    )
    write_result(path, result("clip", {0: 0.0, 5: 0.25, 10: 0.75}, provenance=versions))
    report = diff_results(a, b)
    assert report.same
    assert [note for note in report.notes if note.startswith("torch")] == ["torch unknown made A, 9 made B"]
    write_result(path, changed)
    values = {value.name: value for value in diff_results(a, b).values}
    spearman = values["small/clip: spearman"]
    assert (spearman.compared, spearman.differ, spearman.absolute, spearman.relative) == (3, 1, 0.25, 1.0)
    assert spearman.first == "position 5, reference vqascore"
    assert set(values) == {f"small/clip: {name}" for name in ("spearman", "spearman_ci", "regret", "recovered_gain")}


def test_models_positions_settings_and_scores(pair: tuple[Path, Path], run: Run) -> None:
    a, b = pair
    result_path(b, "small", "noisyclip").unlink()
    write_result(result_path(b, "small", "clip"), result("clip", {0: 0.0, 5: 0.25}, n_prompts=7))
    scores(result_path(b, "small", "clip", ".parquet"), 0.5, 0.75)
    report = diff_results(a, b)
    facts = {(each.part, each.name): (each.a, each.b) for each in report.differences}
    assert facts["results", "small/noisyclip"] == ("1 result", None)
    assert facts["small/clip", "rows: position 10, reference vqascore"] == ("1 row", None)
    assert facts["small/clip", "n_prompts"][1] == 7
    [value] = report.values
    assert (value.name, value.differ, value.absolute, value.first) == ("scores of small/clip", 1, 0.5, "p/1 at 5")
    assert json.loads(run("diff", a, b, "--json").out)["values"][0]["absolute"] == 0.5
    assert run("diff", result_path(a, "small", "clip"), result_path(a, "small", "noisyclip")).code == 1
    assert run("diff", a, a).out == "A and B are the same: 2 results\n"
