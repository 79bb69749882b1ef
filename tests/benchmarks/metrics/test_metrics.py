"""Metrics against scipy and brute force, with ties, gaps, constant scores, one candidate, one prompt."""

import doctest
import itertools
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy import stats

from nbench.benchmarks import metrics
from nbench.benchmarks.metrics import (
    agreement,
    arrays,
    model_figures,
    retrieval,
    selection,
    separation,
    statistics,
)
from nbench.benchmarks.results import cells, provenance

MODULES = (agreement, arrays, cells, model_figures, provenance, retrieval, selection, separation, statistics)

Metric = Callable[[np.ndarray, np.ndarray], np.ndarray]


def noisy_scores(seed: int, prompts: int = 60, candidates: int = 6, levels: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Scores and references with many ties, negative values, missing ones and some constant rows."""
    rng = np.random.default_rng(seed)
    scores, reference = rng.integers(-levels, levels, (2, prompts, candidates)).astype(float)
    scores[rng.random(scores.shape) < 0.15] = np.nan
    reference[rng.random(scores.shape) < 0.15] = np.nan
    scores[0] = 3
    reference[1] = -2
    return scores, reference


def both_finite(scores: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mask = np.isfinite(scores) & np.isfinite(reference)
    return scores[mask], reference[mask]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(metrics.spearman, stats.spearmanr), (metrics.kendall, stats.kendalltau), (metrics.pearson, stats.pearsonr)],
    ids=["spearman", "kendall", "pearson"],
)
def test_correlations_equal_scipy(ours: Metric, theirs: Callable[..., Any], seed: int) -> None:
    scores, reference = noisy_scores(seed)
    expected = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for row in zip(scores, reference, strict=True):
            x, y = both_finite(*row)
            expected.append(theirs(x, y).statistic if len(x) > 1 else np.nan)
    assert np.isnan(expected).any()
    assert np.isfinite(expected).sum() > 30
    np.testing.assert_allclose(ours(scores, reference), expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_selection_equals_brute_force(seed: int) -> None:
    scores, reference = noisy_scores(seed)
    picks, gaps, blind = [], [], []
    for row in zip(scores, reference, strict=True):
        x, y = both_finite(*row)
        best = [b for a, b in zip(x, y, strict=True) if a == max(x)]
        picks.append(sum(best) / len(best) if best else np.nan)
        drawn = [b for b in row[1] if not np.isnan(b)]
        blind.append(sum(drawn) / len(drawn))
        pairs = [a1 - a2 for (a1, b1), (a2, b2) in itertools.product(zip(x, y, strict=True), repeat=2)
                 if b1 == max(y) and b2 == min(y)]  # fmt: skip
        gaps.append(np.mean(pairs) if len(set(y)) > 1 else np.nan)
    np.testing.assert_allclose(metrics.best_of_n(scores, reference), picks, atol=1e-12)
    np.testing.assert_allclose(metrics.best_worst_gap(scores, reference), gaps, atol=1e-12)
    np.testing.assert_allclose(metrics.random_pick(reference), blind, atol=1e-12)


def test_what_cannot_be_told_is_nan_and_silent() -> None:
    one, constant, rising = np.array([[2.0]]), np.ones((1, 4)), np.arange(4.0)[None]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for metric in (metrics.spearman, metrics.kendall, metrics.best_worst_gap):
            assert np.isnan(metric(one, one)).all()
            assert np.isnan(metric(rising, constant)).all()
            assert np.isnan(metric(rising, np.full((1, 4), np.nan))).all()
        assert np.isnan(metrics.spearman(constant, rising)).all()
        assert metrics.best_worst_gap(constant, rising) == [0]
        assert np.isnan(metrics.best_of_n(rising, np.full((1, 4), np.nan))).all()
    assert metrics.best_of_n(one, one) == [2]
    assert metrics.best_of_n(constant, rising) == metrics.random_pick(rising)  # cannot choose: a blind draw
    assert np.isnan(metrics.recovered_gain(0.3, 0.1 * 3, 0.3))  # a gain of rounding alone is none
    assert np.isnan(metrics.retention(0.3, 0.0))


def test_oracle_recovers_all_and_random_nothing() -> None:
    rng = np.random.default_rng(0)
    reference, blind = rng.random((2, 400, 6))
    final = metrics.best_of_n(reference, reference)
    random = metrics.random_pick(reference)
    np.testing.assert_array_equal(final, reference.max(1))
    assert metrics.recovered_gain(final.mean(), random.mean(), final.mean()) == 1
    picks = np.stack([metrics.best_of_n(blind, reference), random, final], axis=1)
    gains = metrics.recovered_gain(*statistics.bootstrap_means(picks).T)
    low, high = np.quantile(gains, [0.025, 0.975])
    assert low < 0 < high
    assert high - low < 0.4


def test_cost_of_choosing_at_a_position() -> None:
    assert [metrics.cost_steps(6, k, 50) for k in range(51)] == [50 + 5 * k for k in range(51)]  # the paper's 50 + 5k
    assert metrics.cost_steps(6, 50, 50) == 300
    assert metrics.cost_steps(1, 7, 20) == 20


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_examples_in_docstrings(module: ModuleType) -> None:
    outcome = doctest.testmod(module, extraglobs={"np": np})
    assert outcome.attempted
    assert not outcome.failed
