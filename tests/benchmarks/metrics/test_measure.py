"""All figures of a model together: what they are of, their intervals, skills, summaries and yardsticks."""

from __future__ import annotations

import numpy as np
import pytest

from nbench.benchmarks import metrics
from nbench.benchmarks.metrics.caption_figures import retrieval_rows, separation_rows
from nbench.benchmarks.metrics.measure import Measures, compare, measure, yardstick
from nbench.benchmarks.metrics.model_figures import Setting

P, N, T = 120, 4, 10


@pytest.fixture(scope="module")
def tables() -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """A reference, and scores of it that grow sharper; one prompt lacks a score, one candidate a reference."""
    rng = np.random.default_rng(0)
    reference = rng.random((P, N))
    reference[3, 1] = np.nan
    scores = {k: reference + rng.normal(0, 0.5 * (1 - k / T), (P, N)) for k in (0, 5, T)}
    scores[5] = np.where(np.arange(P)[:, None] == 7, np.nan, scores[5])
    return reference, scores


@pytest.fixture(scope="module")
def measures(tables: tuple[np.ndarray, dict[int, np.ndarray]]) -> Measures:
    reference, scores = tables
    tags = [{"basic": ["colour"], "advanced": ["counting"] if p % 2 else []} for p in range(P)]
    return measure({"m": scores}, {"clip": reference}, Setting(T, 2, tags=tags))


def test_a_scorer_that_is_the_reference_gains_all_and_random_nothing(
    tables: tuple[np.ndarray, dict[int, np.ndarray]],
) -> None:
    reference = tables[0]
    blind = np.random.default_rng(5).random((P, N))
    rows = measure({"same": {T: reference}, "blind": {T: blind}}, {"vqascore": reference}, Setting(T)).rows
    same = rows[0]
    assert (same.spearman, same.recovered_gain, same.oracle_gain, same.top1, same.regret) == (1, 1, 1, 1, 0)
    assert same.recovered_gain_ci == pytest.approx((1, 1))
    rows = measure({"blind": {5: blind}}, {"clip": reference}, Setting(T)).rows
    assert rows[0].recovered_gain_ci is not None
    low, high = rows[0].recovered_gain_ci
    assert low < 0 < high
    assert high - low < 0.6


def test_figures_and_counts_at_a_position(tables: tuple[np.ndarray, dict[int, np.ndarray]], measures: Measures) -> None:
    reference, scores = tables
    row = next(row for row in measures.rows if row.position == 5)
    assert (row.n_scored, row.n_unscored, row.cost_steps) == (P * N - 5, 4, 2 * (N * 5 + 5))
    picks = metrics.best_of_n(scores[5], reference)
    kept = np.isfinite(picks)
    random, best = metrics.random_pick(reference)[kept].mean(), np.nanmax(reference, 1)[kept].mean()
    assert row.best_of_n == pytest.approx(picks[kept].mean(), abs=1e-12)
    assert row.recovered_gain == pytest.approx((picks[kept].mean() - random) / (best - random), abs=1e-12)
    assert row.oracle_gain == pytest.approx(row.recovered_gain, abs=1e-12)  # clip chooses, and clip is the reference
    assert row.self_consistency == pytest.approx(np.nanmean(metrics.spearman(scores[5], scores[T])), abs=1e-12)


def test_every_figure_has_an_interval_around_it(measures: Measures) -> None:
    for row in measures.rows:
        for name, interval in row:
            if name.endswith("_ci"):
                value = getattr(row, name.removesuffix("_ci"))
                assert interval is not None, name
                assert interval[0] - 1e-6 <= value <= interval[1] + 1e-6, name


def test_interval_of_a_ratio_is_that_of_resampled_means(
    tables: tuple[np.ndarray, dict[int, np.ndarray]], measures: Measures
) -> None:
    reference, scores = tables
    parts = np.stack(
        [metrics.best_of_n(scores[0], reference), metrics.random_pick(reference), np.nanmax(reference, 1)], axis=1
    )
    rng = np.random.default_rng(99)
    chosen, random, best = np.stack([parts[rng.integers(P, size=P)].mean(0) for _ in range(4000)]).T
    row = measures.rows[0]
    expected = np.quantile((chosen - random) / (best - random), [0.025, 0.975])
    np.testing.assert_allclose(row.recovered_gain_ci or np.nan, expected, atol=0.02)
    np.testing.assert_allclose(row.retention_ci or np.nan, np.quantile(chosen / best, [0.025, 0.975]), atol=0.01)


def test_selection_ends_in_best_of_all_and_begins_at_random(measures: Measures) -> None:
    rows = [row for row in measures.selection if row.position == T]
    assert [row.n for row in rows] == [1, 2, 3, 4]
    assert [row.cost_steps for row in rows] == [20, 40, 60, 80]
    assert rows[0].recovered_gain == pytest.approx(0, abs=1e-12)
    values = [row.best_of_n or 0 for row in rows]
    assert values == sorted(values)


def test_skills_are_the_figures_of_their_prompts(
    tables: tuple[np.ndarray, dict[int, np.ndarray]], measures: Measures
) -> None:
    reference, scores = tables
    assert {(row.level, row.skill, row.n_prompts) for row in measures.skills} == {
        ("advanced", "counting", P // 2),
        ("basic", "colour", P),
    }
    row = next(row for row in measures.skills if (row.skill, row.position) == ("counting", 5))
    alone = measure({"m": {k: s[1::2] for k, s in scores.items()}}, {"clip": reference[1::2]}, Setting(T)).rows
    expected = next(r for r in alone if r.position == 5)
    assert (row.spearman, row.recovered_gain) == (expected.spearman, expected.recovered_gain)
    assert row.spearman_ci == pytest.approx(expected.spearman_ci)


def test_summary_over_positions(measures: Measures) -> None:
    summary, gains = measures.summaries[0], [row.recovered_gain or 0 for row in measures.rows]
    costs = [row.cost_steps for row in measures.rows]
    assert summary.gain_area == pytest.approx(np.trapezoid(gains, costs) / (costs[-1] - costs[0]))
    assert summary.gain_area_ci is not None
    assert summary.gain_area_ci[0] < (summary.gain_area or 0) < summary.gain_area_ci[1]
    assert summary.earliest["spearman>=0.5"] == next(r.position for r in measures.rows if (r.spearman or 0) >= 0.5)


def test_yardsticks_are_ordered_and_name_who_chooses(tables: tuple[np.ndarray, dict[int, np.ndarray]]) -> None:
    reference, scores = tables
    mark = yardstick({"vqascore": reference}, "vqascore", own=scores[5])
    assert mark.random is not None
    assert mark.final is not None
    assert mark.oracle is not None
    assert mark.random < mark.final < mark.oracle
    assert (mark.chooser, mark.misaligned_below) == ("own", np.nanmedian(reference))
    assert yardstick({"clip": reference}, "clip", scores[5], 0.3).chooser == "clip"
    none = yardstick({"vqascore": reference}, "vqascore")
    assert (none.chooser, none.final) == (None, None)


def test_comparisons_are_corrected_for_their_number(tables: tuple[np.ndarray, dict[int, np.ndarray]]) -> None:
    reference, scores = tables
    rows = compare({"late": dict.fromkeys(scores, scores[T]), "early": scores}, {"clip": reference})
    assert [row.p_holm for row in rows[-1:]] == [None]  # the same scores: no difference to test
    assert rows[0].p_value is not None
    assert rows[0].p_holm == pytest.approx(2 * rows[0].p_value)


def test_separation_by_kind_and_of_all(tables: tuple[np.ndarray, dict[int, np.ndarray]]) -> None:
    true = {k: values + 0.0 for k, values in tables[1].items()}
    corrupted = {"colour": {k: values - 10 for k, values in true.items()}, "subject": true}
    rows = {row.kind: row for row in separation_rows("m", true, corrupted) if row.position == 5}
    assert (rows["colour"].auroc, rows["colour"].average_precision, rows["colour"].pairwise_accuracy) == (1, 1, 1)
    assert (rows["subject"].auroc, rows["subject"].pairwise_accuracy) == (0.5, 0.5)
    assert (rows["all"].auroc, rows["all"].n_pairs) == (pytest.approx(0.75), 2 * rows["colour"].n_pairs)
    assert rows["all"].auroc_ci is not None


def test_retrieval_rows_of_both_directions() -> None:
    towers = np.linalg.qr(np.random.default_rng(0).normal(size=(12, 12)))[0]
    rows = retrieval_rows("m", 5, towers, towers[[1, 0, *range(2, 12)]], np.arange(12), (1, 5))
    assert [(row.direction, row.k) for row in rows] == [
        (d, k) for d in ("text_to_latent", "latent_to_text") for k in (1, 5)
    ]
    assert rows[0].recall == pytest.approx(10 / 12)
    assert rows[0].recall_ci is not None
