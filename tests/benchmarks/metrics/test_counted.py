"""More metrics against scipy, counting and enumeration, on tables with ties and gaps."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from nbench.benchmarks import metrics
from nbench.benchmarks.metrics import agreement
from nbench.benchmarks.metrics.arrays import standing
from nbench.benchmarks.metrics.retrieval import retrieval_recall

from .test_metrics import both_finite, noisy_scores

TABLES = hnp.arrays(np.float64, (3, 5), elements=st.sampled_from([-1.0, 0.0, 0.25, 2.0, np.nan]))


def test_pearson_of_a_constant_row_is_undefined_whatever_its_mean_rounds_to() -> None:
    assert np.isnan(metrics.pearson(np.full((1, 3), 0.1), np.array([[0.3, 0.1, 0.2]]))).all()


@pytest.mark.parametrize("n", [20, 40, 600], ids=["all with all", "sorted", "long rows by scipy"])
def test_long_rows_equal_scipy(n: int) -> None:
    x, y = np.random.default_rng(n).integers(0, 12, (2, 3, n)).astype(float)
    x[0, :5] = np.nan
    for ours, theirs in [(metrics.spearman, stats.spearmanr), (metrics.kendall, stats.kendalltau)]:
        expected = [theirs(*both_finite(*row)).statistic for row in zip(x, y, strict=True)]
        np.testing.assert_allclose(ours(x, y), expected, atol=1e-12)
    below = [[np.nansum(row < value) for value in row] for row in x]
    np.testing.assert_array_equal(standing(x).below, below)


def brute_accuracy(x: np.ndarray, y: np.ndarray, threshold: float) -> float:
    pairs = list(itertools.combinations(range(len(x)), 2))
    right = 0
    for i, j in pairs:
        tied = abs(x[i] - x[j]) <= threshold
        right += tied if y[i] == y[j] else not tied and (x[i] - x[j]) * (y[i] - y[j]) > 0
    return right / len(pairs) if pairs else np.nan


@pytest.mark.parametrize("seed", range(4))
def test_pairwise_accuracy_is_the_best_over_every_threshold(seed: int) -> None:
    scores, reference = noisy_scores(seed, prompts=12)
    scores += np.random.default_rng(seed).normal(0, 0.2, scores.shape)
    rows = [both_finite(*row) for row in zip(scores, reference, strict=True)]
    distances = [abs(a - b) for x, _ in rows for a, b in itertools.combinations(x, 2)]
    totals = [np.nanmean([brute_accuracy(*row, limit) for row in rows]) for limit in (0, *distances)]
    accuracy, threshold = metrics.pairwise_accuracy(scores, reference)
    np.testing.assert_allclose(np.nanmean(accuracy), max(totals), atol=1e-9)
    np.testing.assert_allclose(accuracy, [brute_accuracy(*row, threshold) for row in rows], atol=1e-12)
    accuracy, _ = metrics.pairwise_accuracy(scores, reference, tie_threshold=0.3)
    np.testing.assert_allclose(accuracy, [brute_accuracy(*row, 0.3) for row in rows], atol=1e-12)


def test_pairs_are_drawn_where_there_are_too_many() -> None:
    x = np.random.default_rng(0).normal(size=(1, 400))
    y = x + np.random.default_rng(1).normal(size=x.shape)
    every, _ = agreement.pairwise_accuracy(x, y, max_pairs=None)
    drawn, _ = agreement.pairwise_accuracy(x, y, max_pairs=20_000)
    assert drawn[0] != every[0]
    assert drawn[0] == pytest.approx(every[0], abs=0.02)


@given(TABLES, TABLES)
@settings(max_examples=60, deadline=None)
def test_best_of_n_is_the_mean_over_all_subsets(scores: np.ndarray, reference: np.ndarray) -> None:
    best_of_n = metrics.best_of_subsets(scores, reference, range(1, 6))
    for row, (x, y) in enumerate(both_finite(*both) for both in zip(scores, reference, strict=True)):
        for n in range(1, 6):
            picks = []
            for subset in map(list, itertools.combinations(range(len(x)), n)):
                best = x[subset] == x[subset].max()
                picks.append(y[subset][best].mean())
            np.testing.assert_allclose(best_of_n[row, n - 1], np.mean(picks) if picks else np.nan, atol=1e-9)


@given(TABLES, TABLES)
@settings(max_examples=60, deadline=None)
def test_hit_and_regret_by_the_pick(scores: np.ndarray, reference: np.ndarray) -> None:
    hits, regrets = metrics.top1_hit(scores, reference), metrics.regret(scores, reference)
    for row, (x, y) in enumerate(both_finite(*both) for both in zip(scores, reference, strict=True)):
        picks = y[x == x.max()] if len(x) else np.array([])
        np.testing.assert_allclose(hits[row], np.mean(picks == y.max()) if len(x) else np.nan)
        np.testing.assert_allclose(regrets[row], y.max() - picks.mean() if len(x) else np.nan, atol=1e-12)


@given(hnp.arrays(np.float64, 9, elements=st.sampled_from([0.0, 0.5, 1.0, np.nan])), hnp.arrays(np.bool_, 9))
@settings(max_examples=100, deadline=None)
def test_ranking_measures_by_counting(scores: np.ndarray, positive: np.ndarray) -> None:
    ok = np.isfinite(scores)
    hits, misses = scores[ok & positive], scores[ok & ~positive]
    wins = [(a > b) + 0.5 * (a == b) for a, b in itertools.product(hits, misses)]
    np.testing.assert_allclose(metrics.auroc(scores[None], positive[None])[0], np.mean(wins) if wins else np.nan)
    precisions = [(hits >= s).sum() / (scores[ok] >= s).sum() for s in hits]
    expected = np.mean(precisions) if len(hits) else np.nan
    np.testing.assert_allclose(metrics.average_precision(scores[None], positive[None])[0], expected)
    limit = metrics.detection_threshold(scores, positive)

    def f1(t: float) -> float:
        return 2 * (hits <= t).sum() / ((scores[ok] <= t).sum() + len(hits))

    if len(hits):
        assert f1(limit) == pytest.approx(max(f1(t) for t in scores[ok]))
    else:
        assert np.isnan(limit)


def test_preference_for_the_true_caption() -> None:
    true, corrupted = np.array([[0.5, 0.2, np.nan], [np.nan] * 3]), np.array([[0.1, 0.2, 0.0], [0.0] * 3])
    np.testing.assert_array_equal(metrics.preferred(true, corrupted), [0.75, np.nan])


def test_held_out_alarm_is_that_of_the_other_half() -> None:
    rng = np.random.default_rng(0)
    reference = rng.random((60, 4))
    clear, blind = reference + 0, rng.random((60, 4))
    for scores, low, high in [(clear, 0.97, 1.0), (blind, 0.3, 0.6)]:
        counts = metrics.held_out_detection(scores, reference < 0.4).sum(0)
        assert low <= counts[0] / counts[1] <= high
    assert counts[2] == (reference < 0.4).sum()
    assert np.isnan(metrics.held_out_detection(clear[:1], reference[:1] < 0.4)).all()  # no other half


def test_area_and_earliest() -> None:
    costs = np.array([50.0, 100.0, 300.0])
    assert metrics.gain_area(costs, np.ones(3)) == 1
    assert metrics.gain_area(costs, np.array([[0.0, 1.0, 1.0]])) == pytest.approx([(25 + 200) / 250])
    assert np.isnan(metrics.gain_area(costs[:1], np.ones(1)))
    assert metrics.earliest([20, 10, 30], [0.6, None, 0.7], 0.6) == 20
    assert metrics.earliest([0], [0.1], 0.6) is None


@pytest.mark.parametrize("distinct", [True, False], ids=["all different", "ties"])
def test_retrieval_equals_counting_over_random_orders(distinct: bool) -> None:
    rng = np.random.default_rng(3)
    texts, latents = rng.normal(size=(2, 12, 3)) if distinct else rng.integers(0, 2, (2, 12, 1)).astype(float)
    owners = np.array([0, 0, 1, 2, 3, 3, 3, 4, 5, 6, 7, 8])
    similarity, rounds = texts @ latents.T, 1 if distinct else 4000
    counted = np.zeros((2, 12, 2))
    for _ in range(rounds):
        shuffled = similarity + (0 if distinct else 1e-9 * rng.random(similarity.shape))
        for at, k in enumerate((1, 5)):
            nearest = np.argsort(-shuffled, axis=1)[:, :k]
            counted[0, :, at] += [(owners[nearest[p]] == p).any() for p in range(12)]
            nearest = np.argsort(-shuffled.T, axis=1)[:, :k]
            hit = np.array([owners[r] in nearest[r] for r in range(12)], float)
            counted[1, :9, at] += np.bincount(owners, hit) / np.bincount(owners)
    to_latent, to_text = retrieval_recall(texts, latents, owners, (1, 5))
    np.testing.assert_allclose(to_latent[:9], counted[0, :9] / rounds, atol=1e-9 if distinct else 0.03)
    np.testing.assert_allclose(to_text[:9], counted[1, :9] / rounds, atol=1e-9 if distinct else 0.03)
    assert np.isnan(to_latent[9:]).all()
    assert np.isnan(to_text[9:]).all()
