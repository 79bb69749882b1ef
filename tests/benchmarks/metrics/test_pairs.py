"""Sums over pairs against scipy and counting by hand: ties, sizes that differ, draws that repeat prompts."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from nbench.benchmarks.metrics import Array
from nbench.benchmarks.metrics import pairs as module
from nbench.benchmarks.metrics.pairs import Indices, count_pairs, tie_threshold

Images = tuple[Array, Array, Indices]


def images(seed: int = 0, n_prompts: int = 9, levels: int = 12) -> Images:
    """Up to five images a prompt, with ties on both sides."""
    rng = np.random.default_rng(seed)
    prompts = np.repeat(np.arange(n_prompts), rng.integers(1, 6, n_prompts))
    ratings = rng.integers(1, 6, len(prompts)).astype(float)
    scores = (ratings + rng.integers(0, levels, len(prompts))) / levels
    return scores, ratings, prompts


def accuracy(scores: Array, ratings: Array, prompts: Indices, threshold: float, within: bool) -> float:
    """Share of pairs that agree, counted one by one; within prompts the mean of each prompt's."""
    right: dict[int, list[bool]] = {}
    for i, j in combinations(range(len(scores)), 2):
        if within and prompts[i] != prompts[j]:
            continue
        tied = abs(scores[i] - scores[j]) <= threshold
        agree = ratings[i] == ratings[j] if tied else (scores[i] - scores[j]) * (ratings[i] - ratings[j]) > 0
        right.setdefault(int(prompts[i]) if within else 0, []).append(bool(agree))
    return float(np.mean([np.mean(one) for one in right.values()]))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("cells", [1, 100, 4_000_000], ids=["a prompt at a time", "few", "all at once"])
def test_overall_and_within_equal_scipy_and_counting(seed: int, cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK_CELLS", cells)
    x, y, prompts = images(seed)
    counts = count_pairs(x, y, prompts, 0.25)
    expected = [stats.pearsonr(x, y).statistic, stats.kendalltau(x, y).statistic, accuracy(x, y, prompts, 0.25, False)]
    np.testing.assert_allclose(counts.overall(), expected, atol=1e-9)
    for prompt, statistics in enumerate(counts.within()):
        mine = prompts == prompt
        if mine.sum() == 1:
            assert np.isnan(statistics).all()
            continue
        assert statistics[2] == pytest.approx(accuracy(x[mine], y[mine], prompts[mine], 0.25, False), abs=1e-9)
        if np.ptp(x[mine]) == 0 or np.ptp(y[mine]) == 0:
            assert np.isnan(statistics[:2]).all()
            continue
        assert statistics[0] == pytest.approx(stats.pearsonr(x[mine], y[mine]).statistic, abs=1e-9)
        assert statistics[1] == pytest.approx(stats.kendalltau(x[mine], y[mine]).statistic, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("within", [False, True])
def test_the_tie_threshold_is_the_best_and_the_least_of_the_best(seed: int, within: bool) -> None:
    x, y, prompts = images(seed)
    threshold = tie_threshold(x, y, prompts, within)
    tries = sorted({0.0, *(abs(a - b) for a, b in combinations(x, 2))})
    accuracies = [accuracy(x, y, prompts, attempt, within) for attempt in tries]
    assert threshold == pytest.approx(tries[int(np.argmax(np.array(accuracies) > max(accuracies) - 1e-9))], abs=1e-12)


def test_some_prompts_are_as_if_there_were_no_others() -> None:
    x, y, prompts = images()
    some = np.array([1, 4, 5, 8])
    kept = np.isin(prompts, some)
    alone = count_pairs(x[kept], y[kept], prompts[kept], 0.25)
    np.testing.assert_allclose(count_pairs(x, y, prompts, 0.25).of(some).overall(), alone.overall(), atol=1e-9)


def test_draws_equal_the_repeated_images_without_pairs_of_an_image_and_its_copy() -> None:
    x, y, prompts = images(n_prompts=4)
    draws = count_pairs(x, y, prompts, 0.25).resampled(50)
    rng = np.random.default_rng(0)
    times = [np.bincount(row, minlength=4) for row in rng.integers(4, size=(50, 4))]
    for statistics, often in zip(draws, times, strict=True):
        rows = np.repeat(np.arange(len(x)), often[prompts])
        expected = stats.pearsonr(x[rows], y[rows]).statistic if np.ptp(x[rows]) and np.ptp(y[rows]) else np.nan
        assert statistics[0] == pytest.approx(expected, abs=1e-9, nan_ok=True)
        pairs = [(i, j) for i, j in combinations(rows, 2) if i != j]
        signs = np.array([[np.sign(x[i] - x[j]), np.sign(y[i] - y[j])] for i, j in pairs])
        apart = np.abs(signs).sum(0)
        assert statistics[1] == pytest.approx(signs.prod(1).sum() / np.sqrt(apart.prod()), abs=1e-9)
        right = [y[i] == y[j] if abs(x[i] - x[j]) <= 0.25 else (x[i] - x[j]) * (y[i] - y[j]) > 0 for i, j in pairs]
        assert statistics[2] == pytest.approx(np.mean(right), abs=1e-9)


def test_constant_sides_and_single_images_have_no_correlation() -> None:
    one, five = np.zeros(1, int), np.arange(5)
    assert np.isnan(count_pairs(np.ones(1), np.ones(1), one).overall()).all()
    constant = count_pairs(np.full(5, 0.1), np.arange(5.0), five).overall()
    assert np.isnan(constant[:2]).all()
    assert constant[2] == 0
    assert np.isnan(tie_threshold(np.ones(1), np.ones(1), one))
