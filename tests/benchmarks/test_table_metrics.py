"""`nbench metrics`: tables of anyone's experiment, with gaps, other columns, seeds as candidates, and bad ones."""

from __future__ import annotations

import json
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from scipy import stats

from nbench.benchmarks.results.terminal import report_table
from nbench.benchmarks.table_metrics import measure_tables
from nbench.benchmarks.table_metrics_config import MetricsConfig
from nbench.errors import NbenchError
from nbench.shards.scores import write_scores

P, N, T = 30, 4, 6


def write(path: Path, columns: dict[str, Any]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def long_tables(folder: Path, seed: int = 0) -> tuple[Path, Path, np.ndarray, dict[int, np.ndarray]]:
    """Scores at 0, 3, 6 and a reference as rows in random order; candidates are seeds."""
    rng = np.random.default_rng(seed)
    reference = rng.random((P, N))
    scores = {k: reference + rng.normal(0, 0.4 * (1 - k / 10), (P, N)) for k in (0, 3, T)}
    p, n = (part.ravel() for part in np.indices((P, N)))
    seeds, order = p * 1000 + n * 7, rng.permutation(P * N)
    ref = {"prompt_id": [f"p{i}" for i in p[order]], "candidate": seeds[order], "score": reference.ravel()[order]}
    rows = [
        (f"p{i}", s, k, scores[k].ravel()[j]) for k in scores for j, (i, s) in enumerate(zip(p, seeds, strict=True))
    ]
    rows = [rows[i] for i in rng.permutation(len(rows))]
    names = ("prompt_id", "candidate", "position", "score")
    table = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    return write(folder / "s.parquet", table), write(folder / "r.parquet", ref), reference, scores


def test_figures_are_those_of_the_tables(tmp_path: Path) -> None:
    s, r, reference, scores = long_tables(tmp_path)
    content = json.loads(measure_tables(MetricsConfig(s, r, calls_per_position=5)).to_json())
    assert (content["n_prompts"], content["n_candidates"], content["final_position"]) == (P, N, T)
    assert content["yardstick"] == "final-image selection by the scores' own position 6"
    for row in content["rows"]:
        values = scores[row["position"]]
        rho = [stats.spearmanr(*pair).statistic for pair in zip(values, reference, strict=True)]
        assert row["spearman"] == pytest.approx(np.mean(rho), abs=1e-9)
        assert row["spearman_ci"][0] < row["spearman"] < row["spearman_ci"][1]
        tau = [stats.kendalltau(*pair).statistic for pair in zip(values, reference, strict=True)]
        assert row["kendall"] == pytest.approx(np.mean(tau), abs=1e-9)
        assert row["kendall_global"] == pytest.approx(stats.kendalltau(values.ravel(), reference.ravel()).statistic)
        chosen, final = (np.take_along_axis(reference, x.argmax(1)[:, None], 1).mean() for x in (values, scores[T]))
        gain = (chosen - reference.mean()) / (final - reference.mean())
        assert row["recovered_gain"] == pytest.approx(gain, abs=1e-9)
        assert row["cost_steps"] == 5 * (N * row["position"] + T - row["position"])
        assert (row["n_scored"], row["n_unscored"]) == (P * N, 0)
    mark = content["yardsticks"]["r"]
    assert mark["oracle"] == pytest.approx(reference.max(1).mean())


def test_rows_that_are_missing_on_either_side_are_counted(tmp_path: Path) -> None:
    s, r, _, _ = long_tables(tmp_path)
    scores, reference = pq.read_table(s), pq.read_table(r)
    pq.write_table(scores.slice(5), s)
    pq.write_table(reference.slice(3), r)
    report = measure_tables(MetricsConfig(s, r)).report
    lost = {k: scores.slice(0, 5).column("position").to_pylist().count(k) for k in (0, 3, T)}
    gone = set(zip(*(reference.slice(0, 3)[name].to_pylist() for name in ("prompt_id", "candidate")), strict=True))
    both = dict.fromkeys(lost, 0)
    for key in zip(*(scores.slice(0, 5)[n].to_pylist() for n in ("prompt_id", "candidate", "position")), strict=True):
        both[key[2]] += key[:2] in gone
    screen = Console(file=StringIO(), width=80)
    screen.print(report_table(report))
    for row in report.rows:
        assert row.n_scored == P * N - lost[row.position] - 3 + both[row.position]
        assert row.n_unscored == lost[row.position] + 3 - 2 * both[row.position]
        assert f" {row.n_scored}+{row.n_unscored}" in screen.file.getvalue()  # type: ignore[attr-defined]


def test_own_score_tables_with_captions_and_status(tmp_path: Path) -> None:
    s, _, reference, scores = long_tables(tmp_path)
    p, n = (part.ravel() for part in np.indices((P, N)))
    base = {"prompt_id": [f"p{i}" for i in p], "candidate": n, "status": ["ok"] * (P * N)}
    tables = [
        base
        | {"position": np.full(P * N, k), "caption": [kind] * (P * N), "score": values.ravel() - (kind != "prompt")}
        for k, values in scores.items()
        for kind in ("prompt", "colour")
    ]
    write_scores(s, pa.concat_tables([pa.table(table) for table in tables]), {"scorer": "sharp"})
    own = base | {"position": np.full(P * N, T), "caption": ["prompt"] * (P * N), "score": reference.ravel()}
    write_scores(tmp_path / "ref.parquet", pa.table(own), {"scorer": "clip"})
    outcome = measure_tables(MetricsConfig(s, tmp_path / "ref.parquet"))
    assert {(row.model, row.reference) for row in outcome.report.rows} == {("sharp", "clip")}
    assert outcome.yardstick == "final-image selection by clip"
    assert [(row.kind, row.pairwise_accuracy) for row in outcome.separation] == [("colour", 1.0)] * 3


def test_final_position_not_scored_leaves_only_the_oracle(tmp_path: Path) -> None:
    s, r, _, _ = long_tables(tmp_path)
    outcome = measure_tables(MetricsConfig(s, r, final_position=10))
    assert outcome.yardstick.startswith("no final-image selection: the scores have no position 10")
    row = outcome.report.rows[-1]
    assert (row.recovered_gain, row.retention, row.self_consistency) == (None, None, None)
    assert row.oracle_gain is not None
    assert row.cost_steps == N * T + 4


def test_bad_tables_are_refused_in_one_line(tmp_path: Path) -> None:
    s, r, _, _ = long_tables(tmp_path)
    scores, reference = pq.read_table(s), pq.read_table(r)
    (tmp_path / "text.parquet").write_text("no Parquet")
    twice = tmp_path / "twice.parquet"
    pq.write_table(pa.concat_tables([scores, scores.slice(4, 1)]), twice)
    key = scores.slice(4, 1).to_pylist()[0]
    named = f"prompt_id {key['prompt_id']}, candidate {key['candidate']}, position {key['position']} more than once"

    def other(name: str, table: pa.Table) -> Path:
        pq.write_table(table, tmp_path / f"{name}.parquet")
        return tmp_path / f"{name}.parquet"

    words = pa.array(["high"] * scores.num_rows)
    holes = pa.array([None, *scores["candidate"].to_pylist()[1:]])
    for a, b, message in [
        (tmp_path / "none.parquet", r, "no file at"),
        (tmp_path / "text.parquet", r, "cannot read"),
        (twice, r, named),
        (s, other("twice2", pa.concat_tables([reference, reference.slice(0, 1)])), "more than once"),
        (r, r, "has no column position"),
        (s, other("bare", reference.drop_columns(["score"])), r"has no column score .*it has prompt_id, candidate\)"),
        (other("words", scores.set_column(3, "score", words)), r, "row 1: score 'high' is not a number"),
        (other("holes", scores.set_column(1, "candidate", holes)), r, "row 1 has no candidate"),
        (other("empty", scores.slice(0, 0)), r, "has no rows"),
        (
            s,
            other("alien", reference.set_column(0, "prompt_id", pa.array(["x"] * P * N))),
            "no image has a value in both",
        ),
    ]:
        with pytest.raises(NbenchError, match=message) as caught:
            measure_tables(MetricsConfig(a, b))
        assert "\n" not in str(caught.value)
    with pytest.raises(NbenchError, match="is after --final-position 2"):
        measure_tables(MetricsConfig(s, r, final_position=2))


@pytest.mark.slow
def test_command_prints_a_table_or_json_without_torch(tmp_path: Path) -> None:
    s, r, _, _ = long_tables(tmp_path)
    command = [sys.executable, "-X", "importtime", "-m", "nbench", "metrics", str(s), str(r)]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    assert {row["position"] for row in json.loads(done.stdout)["rows"]} == {0, 3, T}
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "scipy" in imported
    assert imported & {"torch", "diffusers", "transformers", "matplotlib"} == set()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "(random)" in done.stdout
    assert "(oracle)" in done.stdout
    assert "own position 6" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
