"""Bootstrap intervals against scipy's, and their coverage."""

import numpy as np
import pytest
from scipy import stats

from nbench.benchmarks.metrics.agreement import pearson
from nbench.benchmarks.metrics.statistics import (
    bootstrap_ci,
    bootstrap_means,
    grouped_ci,
    holm,
    paired_difference,
    paired_test,
)


def test_interval_agrees_with_scipy() -> None:
    values = np.random.default_rng(1).gamma(2, size=150)
    ours = bootstrap_ci(values[:, None])
    theirs = stats.bootstrap((values,), np.mean, method="percentile", rng=2).confidence_interval
    np.testing.assert_allclose([ours.low[0], ours.high[0]], theirs, atol=0.02)
    assert ours.mean[0] == values.mean()


def test_missing_values_leave_their_prompt_out_of_their_column() -> None:
    values = np.random.default_rng(0).normal(size=(80, 2))
    holed = np.concatenate([values, np.full((40, 2), np.nan)])
    holed[:40, 1] = np.nan
    ours = bootstrap_ci(holed)
    np.testing.assert_allclose(ours.mean, [values[:, 0].mean(), values[40:, 1].mean()])
    alone = bootstrap_ci(values[40:, 1:], seed=5)
    np.testing.assert_allclose([ours.low[1], ours.high[1]], [alone.low[0], alone.high[0]], atol=0.03)
    assert np.isnan(bootstrap_ci(np.full((3, 1), np.nan))).all()


def test_columns_share_their_draws_and_the_seed_decides() -> None:
    values = np.random.default_rng(0).normal(size=(30, 1))
    both = bootstrap_means(np.concatenate([values, values + 1], axis=1), resamples=500)
    np.testing.assert_allclose(both[:, 1] - both[:, 0], 1)
    assert both.shape == (500, 2)
    np.testing.assert_array_equal(bootstrap_means(values, 500, seed=3), bootstrap_means(values, 500, seed=3))


def test_one_prompt_has_no_spread() -> None:
    assert [float(part[0]) for part in bootstrap_ci(np.array([[0.5]]), resamples=20)] == [0.5] * 3


def test_paired_difference_sees_what_is_common() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(size=(100, 1))
    ours, theirs = hard + 0.1 * rng.normal(size=(2, 100, 1))
    shift = paired_difference(ours + 0.1, theirs)
    assert 0 < shift.low[0] < 0.1 < shift.high[0] < 0.2
    none = paired_difference(ours, theirs)
    assert none.low[0] < 0 < none.high[0]


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    columns = rng.exponential(size=(100, 300))  # 300 experiments of 100 prompts, true mean 1
    interval = bootstrap_ci(columns, resamples=1000)
    covered = ((interval.low < 1) & (interval.high > 1)).mean()
    assert 0.88 < covered < 0.98


def test_paired_test_equals_scipy_and_knows_gaps() -> None:
    ours, theirs = np.random.default_rng(0).normal(size=(2, 30, 4))
    ours[:, 1] += 1
    ours[4:9, 2] = np.nan
    expected = stats.ttest_rel(ours, theirs, nan_policy="omit").pvalue
    np.testing.assert_allclose(paired_test(ours, theirs), np.asarray(expected), rtol=1e-9)
    assert np.isnan(paired_test(ours[:1], theirs[:1])).all()
    assert np.isnan(paired_test(theirs + 0.1, theirs)).all()


def test_holm_by_hand() -> None:
    corrected = holm(np.array([0.001, 0.5, np.nan, 0.02, 0.015, 0.9]))
    np.testing.assert_allclose(corrected, [0.005, 1.0, np.nan, 0.06, 0.06, 1.0])
    assert holm(np.array([])).shape == (0,)


def test_pooled_statistics_get_intervals_that_cover_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(200):
        x = rng.normal(size=(120, 4))
        y = 0.6 * x + 0.8 * rng.normal(size=x.shape)
        mean, low, high = grouped_ci(pearson, x, y)
        assert mean[0] == pytest.approx(stats.pearsonr(x.ravel(), y.ravel()).statistic)
        covered.append(low[0] < 0.6 < high[0])
    assert 0.88 < np.mean(covered) < 0.99
    assert np.isnan(grouped_ci(pearson, x[:9], y[:9]).low)


def test_large_values_and_equal_columns_lose_nothing() -> None:
    values = np.random.default_rng(0).normal(size=(50, 1))
    columns = np.concatenate([values, 1e60 * values + 1e61, np.full((50, 1), 0.1)], axis=1)
    draws = bootstrap_means(columns, 200)
    np.testing.assert_allclose((draws[:, 1] - 1e61) / 1e60, draws[:, 0], atol=1e-5)
    assert (draws[:, 2] == draws[0, 2]).all()
