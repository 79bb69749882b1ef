"""The leaderboard from result files: order, yardsticks, every format read back, names that mean harm."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from nbench.benchmarks.metrics.rows import ResultRow, Yardstick
from nbench.benchmarks.results.formats import BOARD_FORMATS
from nbench.benchmarks.results.leaderboard import Leaderboard, leaderboard
from nbench.benchmarks.results.result_file import (
    EvaluationResult,
    read_result,
    result_path,
    write_result,
)
from nbench.errors import NbenchError

V1 = Path(__file__).parent / "historic" / "v1.json"
HOSTILE = '<script>alert("1")</script> | `x`'


def result(model: str, spearman: dict[int, float | None], bench: str = "small", **changes: object) -> EvaluationResult:
    """Of a model with these figures by position; its regret grows with them."""
    rows = tuple(
        ResultRow(
            model=model,
            position=position,
            reference="vqascore",
            spearman=value,
            kendall=None,
            gap=None,
            best_of_n=0.7,
            retention=0.9,
            recovered_gain=None if value is None else 1 - value,
            cost_steps=10 + position,
            n_scored=4,
            n_unscored=2,
            regret=value,
            spearman_ci=None if value is None else (value - 0.1, value + 0.1),
        )
        for position, value in spearman.items()
    )
    mark = Yardstick(random=0.5, final=0.75, oracle=1.0, random_ci=(0.4, 0.6), chooser="clip")
    base = read_result(V1)
    fields = {"model": model, "bench": bench, "rows": rows, "yardsticks": {"vqascore": mark}, "steps": 10}
    return base.model_copy(update={**fields, "bench_fingerprint": "f" * 8, "n_candidates": 4, **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for one in (
        result("clip", {0: 0.0, 5: 0.25, 10: 0.75}),
        result("noisyclip", {0: 0.0, 4: 0.5, 10: 0.5}),
        result("constant", {5: None}),
    ):
        write_result(result_path(tmp_path, one.bench, one.model), one)
    return tmp_path


def models(board: Leaderboard) -> list[str]:
    return [line.model for line in board.lines if not line.yardstick]


def test_models_are_compared_where_all_were_scored(tmp_path: Path) -> None:
    for one in (result("a", {0: 0.0, 4: 0.3, 5: 0.9, 10: 0.9}), result("b", {0: 0.0, 3: 0.1, 4: 0.5, 10: 0.5})):
        write_result(result_path(tmp_path, one.bench, one.model), one)
    board = leaderboard(tmp_path)
    assert ([line.position for line in board.lines if not line.yardstick], board.notes) == ([4, 4], ())
    assert models(board) == ["b", "a"]
    write_result(result_path(tmp_path, "small", "c"), result("c", {0: 0.0, 8: 0.4, 10: 0.4}))
    assert {line.position for line in leaderboard(tmp_path).lines if not line.yardstick} == {10}  # 0 is pure noise


def test_best_first_and_without_a_common_position_each_at_its_own(folder: Path) -> None:
    board = leaderboard(folder)
    assert board.notes[0].startswith("small: its models have no position in common")
    assert leaderboard(folder, position=5).notes == ()
    assert models(board) == ["noisyclip", "clip", "constant"]
    assert [line.position for line in board.lines if not line.yardstick] == [4, 5, 5]
    assert models(leaderboard(folder, "recovered_gain")) == ["clip", "noisyclip", "constant"]
    assert models(leaderboard(folder, "regret")) == ["clip", "noisyclip", "constant"]
    assert models(leaderboard(folder, position=10)) == ["clip", "noisyclip"]
    assert leaderboard(folder, position=10).left_out[0].endswith("no position 10 (it has 5)")


def test_yardsticks_show_what_there_is_to_gain(folder: Path) -> None:
    lines = {line.model: line for line in leaderboard(folder).lines if line.yardstick}
    random, final, oracle = (lines[name] for name in ("(random pick)", "(final-image selection by clip)", "(oracle)"))
    assert random.figures == pytest.approx(
        {"best_of_n": 0.5, "cost_steps": 10, "retention": 2 / 3, "recovered_gain": 0, "oracle_gain": 0}
    )
    assert random.intervals == {"best_of_n": (0.4, 0.6)}
    assert final.figures == pytest.approx(
        {"best_of_n": 0.75, "cost_steps": 40, "retention": 1, "recovered_gain": 1, "oracle_gain": 0.5}
    )
    assert (oracle.figures["recovered_gain"], oracle.figures["oracle_gain"]) == (2, 1)


def test_benches_stand_apart_and_builds_of_one_name_too(folder: Path) -> None:
    write_result(result_path(folder, "large", "clip"), result("clip", {5: 0.9}, "large"))
    board = leaderboard(folder)
    assert [line.bench for line in board.lines] == ["large"] * 4 + ["small"] * 6
    assert {line.bench for line in leaderboard(folder, bench="large").lines} == {"large"}
    write_result(folder / "again.json", result("clip", {5: 0.9}, bench_fingerprint="e" * 8))
    assert {line.bench for line in leaderboard(folder).lines} == {"large", "small@eeeeeeee", "small@ffffffff"}


def test_json_and_csv_hold_every_figure(folder: Path) -> None:
    board = leaderboard(folder)
    content = json.loads(BOARD_FORMATS["json"](board))
    assert [line["model"] for line in content["lines"]] == [line.model for line in board.lines]
    best = content["lines"][0]
    assert (best["spearman"], best["spearman_ci"], best["kendall"]) == (0.5, [0.4, 0.6], None)
    rows = list(csv.DictReader(io.StringIO(BOARD_FORMATS["csv"](board))))
    assert [row["model"] for row in rows] == [line.model for line in board.lines]
    assert (rows[0]["spearman"], rows[0]["spearman_low"], rows[0]["spearman_high"]) == ("0.5", "0.4", "0.6")
    assert (rows[0]["n_scored"], rows[0]["n_unscored"]) == ("4", "2")
    assert "kendall" not in rows[0]  # no line has it


def test_names_that_mean_harm_stay_text(folder: Path) -> None:
    write_result(folder / "hostile.json", result(HOSTILE, {5: 0.9}, "a|b"))
    board = leaderboard(folder)
    markdown = BOARD_FORMATS["md"](board).splitlines()
    assert "<script" not in markdown[2]
    assert r"\| \`x\`" in markdown[2]
    bars = {line.count("|") - line.count(r"\|") for line in markdown}
    assert len(bars) == 1
    rows = list(csv.reader(io.StringIO(BOARD_FORMATS["csv"](board))))
    assert rows[1][0] == HOSTILE


def test_old_results_and_damaged_ones(folder: Path) -> None:
    (folder / "old.json").write_bytes(V1.read_bytes())
    (folder / "bad.json").write_text("{}")
    board = leaderboard(folder)
    assert read_result(V1).model in models(board)
    assert [reason for reason in board.left_out if "bad.json is not a result" in reason]


def test_what_is_not_there_is_told(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for words, where, options in (
        ("cannot sort by 'speed': there are spearman", folder, {"sort": "speed"}),
        ("no result matches .*no position 7", folder, {"position": 7}),
        ("no reference human", folder, {"reference": "human"}),
        ("no results of other: there are small", folder, {"bench": "other"}),
        ("no results in", tmp_path / "empty", {}),
        ("no folder", tmp_path / "none", {}),
    ):
        with pytest.raises(NbenchError, match=words):
            leaderboard(where, **options)


def test_latex_has_a_cell_per_column_and_names_as_text(folder: Path) -> None:
    write_result(folder / "hostile.json", result(r"50%_of\x & $y$#{", {5: 0.9}, "a_b"))
    written = BOARD_FORMATS["latex"](leaderboard(folder))
    assert r"50\%\_of\textbackslash{}x \& \$y\$\#\{" in written
    assert r"\textbf{0.500} {\scriptsize [$0.400$, $0.600$]}" in written  # the best of its column
    parts = written.split("\n\n")
    assert len(parts) == 2  # a table per bench
    for part in parts:
        rows = [line for line in part.splitlines() if line.endswith(r" \\")]
        bare = [row.replace(r"\&", "") for row in rows]
        assert len({row.count("&") for row in bare}) == 1
        assert part.count(r"\begin{tabular}") == part.count(r"\end{tabular}") == part.count(r"\toprule") == 1
