"""Evaluation: figures against a direct computation, the files it writes, and its errors for bad input."""

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from nbench.benchmarks import evaluate as module
from nbench.benchmarks.evaluate import evaluate
from nbench.benchmarks.evaluate_config import EvaluateConfig
from nbench.benchmarks.metrics.measure import compare, measure, yardstick
from nbench.benchmarks.metrics.model_figures import Setting
from nbench.benchmarks.results.learnt import lessons
from nbench.benchmarks.results.plot import check_plot, plot_report
from nbench.benchmarks.results.result_file import EvaluationReport, read_result
from nbench.benchmarks.results.terminal import report_table
from nbench.benchmarks.scoring.score import score_bench
from nbench.benchmarks.table_metrics import measure_tables
from nbench.benchmarks.table_metrics_config import MetricsConfig
from nbench.console import TextConsole
from nbench.errors import NbenchError
from nbench.scorers.registry import get_scorer
from nbench.shards.reader import Bench
from nbench.shards.scores import read_scores, reference_path, write_scores

from ..small_bench import CANDIDATES, PROMPTS, STEPS, Quality, make_bench
from .brightness_bench import make_brightness_bench
from .scoring.test_score import Brightness

COLUMNS = ["model", "position", "reference", "spearman", "kendall", "gap", "best_of_n", "retention"]
COLUMNS += ["recovered_gain", "cost_steps", "n_scored"]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, Quality]:
    """The small bench with references: `clip` is the brightness of the image, `vqascore` a noisy view of it."""
    bench, truth, table = make_brightness_bench(tmp_path_factory.mktemp("evaluate") / "small")
    noisy = np.array(table["score"]) + np.random.default_rng(1).normal(0, 0.1, table.num_rows)
    write_scores(
        reference_path(bench.path, "vqascore"),
        table.set_column(table.schema.get_field_index("score"), "score", [noisy]),
        {"scorer_fingerprint": "1", "bench_fingerprint": bench.info.fingerprint},
    )
    return bench, truth


@pytest.fixture(scope="module")
def report(bench: tuple[Bench, Quality], tmp_path_factory: pytest.TempPathFactory) -> EvaluationReport:
    scorers = {"brightness": Brightness()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "get_scorer", lambda name, *rest: scorers.get(name) or get_scorer(name, *rest))
        out = tmp_path_factory.mktemp("results")
        return evaluate(EvaluateConfig(bench[0].path, ("random", "brightness"), "0,5", out))


def test_json_is_the_one_object_with_a_row_for_each_model_position_and_reference(report: EvaluationReport) -> None:
    content = json.loads(report.to_json())
    assert list(content) == ["bench", "n_prompts", "n_candidates", "yardsticks", "rows", "costs"]
    assert (content["bench"], content["n_prompts"], content["n_candidates"]) == ("small", PROMPTS, CANDIDATES)
    assert all(set(COLUMNS) <= set(row) for row in content["rows"])
    cells = [(row["model"], row["position"], row["reference"]) for row in content["rows"]]
    models, positions, references = ("random", "brightness"), (0, 5, STEPS), ("clip", "vqascore")  # final always added
    assert sorted(cells) == sorted((m, k, r) for m in models for k in positions for r in references)
    assert {row["n_scored"] for row in content["rows"]} == {PROMPTS * CANDIDATES - 1}
    assert {row["position"]: row["cost_steps"] for row in content["rows"]} == {0: 10, 5: 25, 10: 40}


def test_figures_equal_a_direct_computation(report: EvaluationReport, bench: tuple[Bench, Quality]) -> None:
    quality = bench[1].quality
    row = next(r for r in report.rows if (r.model, r.position, r.reference) == ("brightness", 5, "clip"))
    rho, chosen, blind, best = [], [], [], []
    for noisy, true in zip(bench[1].noisy.clip(0, 1), quality, strict=True):
        ok = np.isfinite(true)
        rho.append(stats.spearmanr(noisy[ok], true[ok]).statistic)
        chosen.append(true[ok][noisy[ok].argmax()])
        blind.append(true[ok].mean())
        best.append(true[ok].max())
    # images and latents round the quality to 8 and 10 bits
    assert row.spearman == pytest.approx(np.mean(rho), abs=0.01)
    assert row.best_of_n == pytest.approx(np.mean(chosen), abs=0.004)
    assert row.retention == pytest.approx(np.mean(chosen) / np.mean(best), abs=0.01)
    gain = (np.mean(chosen) - np.mean(blind)) / (np.mean(best) - np.mean(blind))
    assert row.recovered_gain == pytest.approx(gain, abs=0.02)
    mark = report.yardsticks["clip"]
    assert (mark.random, mark.final) == (
        pytest.approx(np.mean(blind), abs=0.004),
        pytest.approx(np.mean(best), abs=0.004),
    )


def test_seeing_more_agrees_more_and_seeing_all_recovers_all(report: EvaluationReport) -> None:
    rows = {(r.model, r.position): r for r in report.rows if r.reference == "clip"}
    agreement = [rows["brightness", k].spearman or 0 for k in (0, 5, STEPS)]
    assert agreement[0] < 0.3 < agreement[1] < 0.97 < agreement[2]
    assert rows["brightness", STEPS].recovered_gain == pytest.approx(1, abs=0.02)
    assert abs(rows["random", STEPS].recovered_gain or 1) < 0.35
    better = next(c for c in report.comparisons if c.position == 5 and c.reference == "clip")
    assert (better.model, better.other) == ("brightness", "random")
    assert better.low is not None
    assert better.low > 0


def test_oracle_recovers_exactly_all() -> None:
    rng = np.random.default_rng(0)
    references = {"clip": rng.random((50, 6)), "vqascore": rng.random((50, 6))}
    rows = measure({"oracle": {50: references["clip"]}}, references, Setting(50)).rows
    assert [(row.recovered_gain, row.retention) for row in rows] == [(1, 1), (1, 1)]  # it is final-image selection
    assert (rows[0].spearman, rows[0].kendall) == (1, 1)


def test_no_clip_reference_no_yardstick() -> None:
    references = {"vqascore": np.random.default_rng(0).random((5, 3))}
    row = measure({"m": {1: references["vqascore"]}}, references, Setting(2)).rows[0]
    assert (row.retention, row.recovered_gain) == (None, None)
    assert row.best_of_n == references["vqascore"].max(1).mean()
    assert yardstick(references, "vqascore").final is None


def test_one_candidate_and_one_prompt_say_what_can_be_said() -> None:
    scores = {"a": {0: np.array([[0.4]])}, "b": {0: np.array([[0.1]])}}
    references = {"clip": np.array([[0.7]])}
    row = measure(scores, references, Setting(3)).rows[0]
    assert (row.spearman, row.kendall, row.gap, row.recovered_gain) == (None,) * 4
    assert (row.best_of_n, row.retention, row.n_scored) == (0.7, 1.0, 1)
    assert compare(scores, references)[0].low is None


def test_results_on_disk_hold_rows_scores_and_origin(report: EvaluationReport, bench: tuple[Bench, Quality]) -> None:
    assert [path.name for path in report.files] == ["random.json", "brightness.json"]
    result = read_result(report.files[1])
    assert result.rows == tuple(row for row in report.rows if row.model == "brightness")
    assert result.comparisons == report.comparisons
    assert (result.bench_fingerprint, result.reference_fingerprints["clip"]) == (bench[0].info.fingerprint, "1")
    assert read_scores(report.files[1].with_suffix(".parquet")).num_rows == 3 * (PROMPTS * CANDIDATES - 1)
    report.files[1].with_name("old.json").write_text(report.files[1].read_text().replace('"steps"', '"stops"'))
    with pytest.raises(NbenchError, match="not a result"):
        read_result(report.files[1].with_name("old.json"))


def test_tables_alone_give_the_rows_of_the_evaluation(report: EvaluationReport, bench: tuple[Bench, Quality]) -> None:
    scores = report.files[1].with_suffix(".parquet")
    content = json.loads(measure_tables(MetricsConfig(scores, reference_path(bench[0].path, "clip"))).to_json())
    assert [row["position"] for row in content["rows"]] == [0, 5, STEPS]
    rows = json.loads(report.to_json())["rows"]
    evaluated = [row for row in rows if (row["model"], row["reference"]) == ("brightness", "clip")]
    for row, expected in zip(content["rows"], evaluated, strict=True):
        assert list(row) == list(expected)
        for name, value in row.items():
            same = expected[name] if isinstance(value, str) else pytest.approx(expected[name], abs=1e-6)
            assert value == same, name


def test_evaluating_fewer_positions_later_shrinks_nothing(
    bench: tuple[Bench, Quality], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorers = {"brightness": Brightness()}
    monkeypatch.setattr(module, "get_scorer", lambda name, *rest: scorers.get(name) or get_scorer(name, *rest))
    models = ("random", "brightness")
    first = evaluate(EvaluateConfig(bench[0].path, models, "0,5", tmp_path))
    before = [read_result(path) for path in first.files]
    again = evaluate(EvaluateConfig(bench[0].path, models, "8", tmp_path))
    assert {row.position for row in again.rows} == {row.position for row in again.comparisons} == {8, STEPS}
    for path, old in zip(again.files, before, strict=True):
        new = read_result(path)
        assert {row.position for row in new.rows} == {0, 5, 8, STEPS}
        spearman = {(row.position, row.reference): row.spearman for row in new.rows}
        assert {key: spearman[key] for key in ((row.position, row.reference) for row in old.rows)} == {
            (row.position, row.reference): row.spearman for row in old.rows
        }
        assert {row.position for row in new.comparisons} == {0, 5, 8, STEPS}
        assert set(read_scores(path.with_suffix(".parquet"))["position"].to_pylist()) == {0, 5, 8, STEPS}


def test_all_means_the_stored_positions(bench: tuple[Bench, Quality], tmp_path: Path) -> None:
    rows = evaluate(EvaluateConfig(bench[0].path, ("random",), "all", tmp_path)).rows
    assert sorted({row.position for row in rows}) == [0, 5, 8, STEPS]
    with pytest.raises(NbenchError, match=r"latents 6 not in this bench: it has 0, 5, 8, 10"):
        evaluate(EvaluateConfig(bench[0].path, ("random",), "5:6", tmp_path))


def test_a_model_that_the_bench_cannot_feed_is_refused_before_any_is_scored(
    bench: tuple[Bench, Quality], tmp_path: Path
) -> None:
    with pytest.raises(NbenchError, match="x0 not in this bench"):
        evaluate(EvaluateConfig(bench[0].path, ("random", "x0-image"), "5", tmp_path))
    assert not list(tmp_path.rglob("random*"))


@pytest.mark.slow
def test_table_and_plot_show_every_figure(report: EvaluationReport, tmp_path: Path) -> None:
    screen = TextConsole(file=StringIO(), width=80)
    screen.print(report_table(report))
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    for row in report.rows:
        assert f"{row.spearman:z.3f}" in text
        assert f"{row.recovered_gain:z.3f}" in text
    assert all(f"({row.low:+z.3f} .. {row.high:+z.3f})" in text for row in report.comparisons)
    plot_report(replace(report, bench="Ba$$in $x_$"), tmp_path / "new" / "plot.png")
    with Image.open(tmp_path / "new" / "plot.png") as image:
        assert image.width > 1500
        assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 50


@pytest.mark.slow
def test_a_plot_is_what_its_name_says(report: EvaluationReport, tmp_path: Path) -> None:
    for suffix, start in ((".pdf", b"%PDF"), (".svg", b"<?xml"), (".png", b"\x89PNG")):
        files = [tmp_path / f"{name}{suffix}" for name in ("first", "second")]
        for file in files:
            plot_report(replace(report, bench="$bad"), file, "paper")
        first, second = (file.read_bytes() for file in files)
        assert first.startswith(start)
        assert first == second  # no date
    texts = [
        element.text for element in ElementTree.parse(tmp_path / "first.svg").iter("{http://www.w3.org/2000/svg}text")
    ]
    assert {"random", "brightness", f"$bad: {PROMPTS} prompts, Best-of-{CANDIDATES}"} <= set(
        texts
    )  # letters, not paths
    assert b"/FontFile2" in (tmp_path / "first.pdf").read_bytes()  # TrueType, as printers of journals want
    for name, style, message in (
        ("plot.jpeg", "paper", "no format"),
        ("plot", "paper", ".pdf"),
        ("a.png", "x", "style"),
    ):
        with pytest.raises(NbenchError, match=message):
            check_plot(tmp_path / name, style)


def test_lessons_are_those_of_the_figures(report: EvaluationReport) -> None:
    assert [line for line in lessons(report) if "keeps" in line] == []  # only position 0, pure noise, costs so little
    report = replace(report, steps=2 * STEPS)
    gain, few = lessons(report)
    half = [row for row in report.rows if row.reference == "vqascore" and row.cost_steps <= STEPS * CANDIDATES]
    best = max((row for row in half if row.position), key=lambda row: row.recovered_gain or 0)
    assert gain.startswith(f"By vqascore, {best.model} at position {best.position} keeps {best.recovered_gain:.0%} (")
    assert f"With {PROMPTS} prompts intervals are wide" in few
    renamed = tuple(row.model_copy(update={"model": "clip"}) for row in report.rows)
    assert len(list(lessons(replace(report, rows=renamed, n_prompts=1000)))) == 2


def test_references_must_be_there_and_of_this_bench(tmp_path: Path) -> None:
    bench, _ = make_bench(tmp_path / "bench")
    config = EvaluateConfig(bench.path, ("random",), "5", tmp_path / "out")
    with pytest.raises(
        NbenchError, match=rf"no references at .*: nbench references {bench.path} --add clip,vqascore scores its images"
    ):
        evaluate(config)
    table = score_bench(bench, Brightness(reads="image"), [STEPS])
    write_scores(reference_path(bench.path, "clip"), table, {"scorer_fingerprint": "1", "bench_fingerprint": "other"})
    with pytest.raises(NbenchError, match="scores another build"):
        evaluate(config)


def test_bad_models_and_folders_are_refused_in_one_line(bench: tuple[Bench, Quality], tmp_path: Path) -> None:
    config = EvaluateConfig(bench[0].path, ("noisclip",), "5", tmp_path)
    weights = Path(__file__).parents[2] / "shapes" / "weights" / "noisyclip"
    (tmp_path / "file").write_text("")
    for bad, words in [
        (config, "unknown model noisclip"),
        (replace(config, models=("noisyclip", str(weights))), "two models are called noisyclip and would overwrite"),
        (replace(config, bench=tmp_path), "no bench at"),
        (replace(config, models=("random",), out=tmp_path / "file"), "cannot write"),
    ]:
        with pytest.raises(NbenchError, match=words) as caught:
            evaluate(bad)
        assert "\n" not in str(caught.value)
