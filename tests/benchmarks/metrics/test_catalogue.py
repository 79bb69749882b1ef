"""Every declared metric is found wherever figures are shown, and intervals stay inside the declared range."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from nbench.benchmarks import metrics
from nbench.benchmarks.metrics.catalogue import CORE, METRICS
from nbench.benchmarks.metrics.declaration import Cell, Pooled
from nbench.benchmarks.metrics.docs_tables import GROUPS, with_tables
from nbench.benchmarks.metrics.measure import measure, yardstick
from nbench.benchmarks.metrics.model_figures import Setting
from nbench.benchmarks.metrics.rows import ResultRow
from nbench.benchmarks.metrics.statistics import grouped_ci
from nbench.benchmarks.report.inputs import gather
from nbench.benchmarks.report.payload import figures
from nbench.benchmarks.results.formats import BOARD_FORMATS
from nbench.benchmarks.results.leaderboard import Leaderboard, leaderboard
from nbench.benchmarks.results.result_file import EvaluationReport, read_result, result_path, write_result
from nbench.benchmarks.results.terminal import board_tables, report_table

P, N, T = 120, 4, 10
DOCS = Path(__file__).parents[3] / "docs" / "metrics.md"
V1 = Path(__file__).parents[1] / "results" / "historic" / "v1.json"
REFERENCE = np.random.default_rng(0).random((P, N))


@pytest.fixture(scope="module")
def rows() -> list[ResultRow]:
    """A perfect scorer, its contrary and a good one: figures at both ends of their ranges, and between."""
    good = REFERENCE + np.random.default_rng(1).normal(0, 0.2, (P, N))
    scores = {"good": {5: good, T: good}, "same": {T: REFERENCE}, "contrary": {T: -REFERENCE}}
    return measure(scores, {"clip": REFERENCE}, Setting(T)).rows


@pytest.fixture(scope="module")
def folder(rows: list[ResultRow], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of the good one on disk."""
    out = tmp_path_factory.mktemp("results")
    mine = tuple(row for row in rows if row.model == "good")
    marks = {"clip": yardstick({"clip": REFERENCE}, "clip")}
    changes = {"model": "good", "rows": mine, "yardsticks": marks, "steps": T, "n_candidates": N}
    result = read_result(V1).model_copy(update=changes)
    write_result(result_path(out, result.bench, result.model), result)
    return out


@pytest.fixture(scope="module")
def board(folder: Path) -> Leaderboard:
    return leaderboard(folder)


def printed(table: object) -> str:
    console = Console(width=1000, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_in_every_row_file_table_and_page(name: str, folder: Path, board: Leaderboard) -> None:
    heading, (path,) = METRICS[name].heading, folder.rglob("*.json")
    value, ends = getattr(read_result(path).rows[0], name), getattr(read_result(path).rows[0], f"{name}_ci")
    assert value is not None
    assert json.loads(path.read_text())["rows"][0][f"{name}_ci"] == list(ends)
    line = next(line for line in json.loads(BOARD_FORMATS["json"](board))["lines"] if line["model"] == "good")
    assert (line[name], line[f"{name}_ci"]) == (value, list(ends))
    cells = next(line for line in csv.DictReader(io.StringIO(BOARD_FORMATS["csv"](board))) if line["model"] == "good")
    assert [float(cells[f"{name}{end}"]) for end in ("", "_low", "_high")] == [value, *ends]
    assert f"| {heading} |" in BOARD_FORMATS["md"](board).splitlines()[0]
    assert heading in printed(board_tables(leaderboard(folder, sort=name)))
    page = figures(gather([folder]))
    assert {"heading": heading, "higher_is_better": METRICS[name].higher_is_better, "whole": False} == page["figures"][
        name
    ]
    assert name in page["leaderboard"]
    shown = dict(zip(page["rows"]["columns"], page["rows"]["values"][0], strict=True))
    assert [shown[f"{name}{end}"] for end in ("", "_low", "_high")] == pytest.approx([value, *ends], rel=1e-4)
    assert sum(METRICS[name] in group for group in GROUPS.values()) == 1


def test_sorting_knows_which_way_is_better(rows: list[ResultRow], folder: Path, tmp_path: Path) -> None:
    result = read_result(next(folder.rglob("*.json")))
    for model in ("good", "contrary"):
        mine = tuple(row for row in rows if row.model == model and row.position == T)
        write_result(tmp_path / f"{model}.json", result.model_copy(update={"model": model, "rows": mine}))
    for name in ("spearman", "regret", "recovered_gain"):
        lines = leaderboard(tmp_path, sort=name, position=T).lines
        assert [line.model for line in lines if not line.yardstick] == ["good", "contrary"]


def test_core_metrics_and_yardsticks_are_in_the_table_of_an_evaluation(rows: list[ResultRow]) -> None:
    mark = yardstick({"clip": REFERENCE}, "clip")
    table = printed(report_table(EvaluationReport("b", P, N, 0, T, tuple(rows), (), {"clip": mark}, ()), wide=True))
    for name in CORE:
        assert METRICS[name].heading.split()[0] in table
    assert mark.random is not None
    assert mark.final is not None
    random = next(line for line in table.splitlines() if "(random)" in line and "0.000" in line).split()
    assert random == ["(random)", "-", f"{mark.random:.3f}", f"{mark.random / mark.final:.3f}", "0.000"]


def test_the_tables_of_the_docs_are_those_of_the_declarations() -> None:
    page = DOCS.read_text("utf-8")
    for group in GROUPS:
        assert f"<!-- figures: {group} -->" in page
    assert with_tables(page) == page, "run make docs"


def test_columns_of_one_name_hold_the_same_values() -> None:
    random, best = metrics.random_pick(REFERENCE), REFERENCE.max(1)
    cell = Cell(REFERENCE, REFERENCE, REFERENCE, REFERENCE, random, best, best, best, 0.5)
    values: dict[str, np.ndarray] = {}
    for metric in METRICS.values():
        for name, function in metric.columns().items():
            np.testing.assert_array_equal(function(cell), values.setdefault(name, function(cell)))
            assert values[name].shape == (P,)


def test_intervals_stay_inside_the_range(rows: list[ResultRow]) -> None:
    for metric in METRICS.values():
        for row in rows:
            value, ends = getattr(row, metric.name), getattr(row, f"{metric.name}_ci")
            for figure in (value, *(ends or ())):
                assert figure is None or metric.bounds[0] <= figure <= metric.bounds[1], metric.name


def test_an_interval_that_would_leave_the_range_ends_where_it_ends() -> None:
    good = REFERENCE[:30]
    scores = np.where(np.arange(30)[:, None] < 2, -good, good)  # one or two of six groups of prompts disagree
    row = measure({"m": {T: scores}}, {"clip": good}, Setting(T)).rows[0]
    metric = METRICS["pearson_global"]
    assert isinstance(metric.estimate, Pooled)
    best = good.max(1)
    cell = Cell(scores, good, scores, None, metrics.random_pick(good), best, best, best, 0.5)
    _, low, high = (float(end[0]) for end in grouped_ci(metric.estimate.statistic(cell), scores, good))
    assert high > 1
    assert row.pearson_global_ci == (low, 1)
