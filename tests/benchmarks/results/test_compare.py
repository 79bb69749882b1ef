"""Comparisons against the evaluation's own intervals and a direct computation, and results that do not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nbench.benchmarks import evaluate as module
from nbench.benchmarks.evaluate import evaluate
from nbench.benchmarks.evaluate_config import EvaluateConfig
from nbench.benchmarks.results.compare import ModelComparison, compare_results, find_result
from nbench.benchmarks.results.result_file import read_result, write_result
from nbench.benchmarks.scoring.score import score_bench
from nbench.errors import NbenchError
from nbench.scorers.registry import get_scorer
from nbench.shards.reader import Bench
from nbench.shards.scores import read_scores, reference_path, write_scores

from ...small_bench import STEPS, make_bench
from ..scoring.test_score import Brightness


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The small bench with brightness as the reference `clip`."""
    bench, _ = make_bench(tmp_path_factory.mktemp("compare") / "small")
    table = score_bench(bench, Brightness(reads="image"), [STEPS])
    origin = {"scorer_fingerprint": "1", "bench_fingerprint": bench.info.fingerprint}
    write_scores(reference_path(bench.path, "clip"), table, origin)
    return bench


@pytest.fixture(scope="module")
def results(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    scorers = {"brightness": Brightness()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "get_scorer", lambda name, *rest: scorers.get(name) or get_scorer(name, *rest))
        out = tmp_path_factory.mktemp("results")
        evaluate(EvaluateConfig(bench.path, ("random", "brightness"), "0,5", out))
    return out / "small"


def compared(results: Path, bench: Bench | None, reference: str | None = None) -> ModelComparison:
    return compare_results(results / "brightness.json", results / "random.json", bench, reference)


def test_spearman_is_what_the_evaluation_says_with_its_intervals(results: Path, bench: Bench) -> None:
    comparison = compared(results, bench)
    assert (comparison.bench, comparison.a, comparison.b, comparison.note) == ("small", "brightness", "random", "")
    differences = {row.position: row for row in comparison.rows if row.metric == "spearman"}
    expected = read_result(results / "brightness.json").comparisons
    assert set(differences) == {row.position for row in expected} == {0, 5, STEPS}
    for row in expected:
        ours = differences[row.position]
        assert (row.model, row.other, row.reference) == ("brightness", "random", ours.reference)
        assert (ours.difference, ours.low, ours.high) == pytest.approx((row.difference, row.low, row.high), abs=1e-6)


def test_each_figure_is_that_of_the_results(results: Path, bench: Bench) -> None:
    rows = {row.position: row for row in read_result(results / "brightness.json").rows}
    for row in compared(results, bench).rows:
        assert row.a == pytest.approx(getattr(rows[row.position], row.metric), abs=1e-9)
        assert row.a is not None
        assert row.b is not None
        assert row.difference == pytest.approx(row.a - row.b, abs=1e-9)


def test_a_clear_difference_is_one_and_noise_is_none(results: Path, bench: Bench) -> None:
    rows = {(row.metric, row.position): row for row in compared(results, bench).rows}
    for metric in ("spearman", "best_of_n", "recovered_gain"):
        final, noise = rows[metric, STEPS], rows[metric, 0]
        assert final.p_holm is not None
        assert final.p_holm < 0.001
        assert final.low is not None
        assert final.low > 0
        assert noise.p_value is not None
        assert noise.p_value > 0.01
        assert noise.p_holm is not None
        assert noise.p_holm >= noise.p_value
    same = compare_results(results / "random.json", results / "random.json", bench)
    assert {(row.difference, row.p_value) for row in same.rows} == {(0.0, 1.0)}


def test_without_the_bench_the_stated_figures_are_compared(results: Path, bench: Bench) -> None:
    bare, full = compared(results, None), compared(results, bench)
    assert "--bench" in bare.note
    for plain, row in zip(bare.rows, full.rows, strict=True):
        assert (plain.metric, plain.position, plain.low, plain.p_holm) == (row.metric, row.position, None, None)
        assert plain.difference == pytest.approx(row.difference, abs=1e-9)


def test_names_find_results(results: Path, tmp_path: Path) -> None:
    root = results.parent
    for name in ("random", "small/random", str(results / "random.json")):
        assert find_result(name, root) == results / "random.json"
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "m.json").write_text("{}")
    with pytest.raises(NbenchError, match="several benches: name one of one/m, two/m"):
        find_result("m", tmp_path)
    for name in ("none", "../m", str(tmp_path / "m")):
        with pytest.raises(NbenchError, match="no result"):
            find_result(name, tmp_path)


def test_results_that_do_not_fit_are_refused(results: Path, bench: Bench, tmp_path: Path) -> None:
    ours, other = results / "brightness.json", tmp_path / "other.json"
    write_result(other, read_result(ours).model_copy(update={"bench_fingerprint": "e" * 8}))
    with pytest.raises(NbenchError, match="two builds of one bench"):
        compare_results(ours, other, bench)
    with pytest.raises(NbenchError, match="is not the build of small that the results are of"):
        compare_results(ours, ours, replace(bench, info=replace(bench.info, fingerprint="e" * 8)))
    with pytest.raises(NbenchError, match="no reference 'human' in both results: there are clip"):
        compared(results, bench, "human")
    alone = tmp_path / "alone.json"
    write_result(alone, read_result(ours))
    with pytest.raises(NbenchError, match=r"no raw scores at .*alone\.parquet"):
        compare_results(alone, ours, bench)
    table = read_scores(results / "random.parquet")
    write_scores(tmp_path / "alone.parquet", table, {"bench_fingerprint": bench.info.fingerprint})
    with pytest.raises(NbenchError, match=r"alone\.parquet is of another run"):
        compare_results(alone, ours, bench)
    write_result(alone, read_result(ours).model_copy(update={"rows": ()}))
    with pytest.raises(NbenchError, match="no position in common"):
        compare_results(alone, ours, None)
