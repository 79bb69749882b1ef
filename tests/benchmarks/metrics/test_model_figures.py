"""Every figure of a row of results, counted one by one from tables with ties, gaps and constant prompts."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from nbench.benchmarks.metrics.model_figures import Part, Setting
from nbench.benchmarks.metrics.rows import ResultRow

from .test_counted import brute_accuracy
from .test_metrics import both_finite, noisy_scores

P, N, T = 60, 6, 10
Known = list[tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def part() -> Part:
    """Scores at 4 and T against `vqascore`, with `clip` to choose among finished images."""
    scores, reference = noisy_scores(0)
    final, clip = noisy_scores(1)
    return Part("m", {4: scores, T: final}, {"clip": clip, "vqascore": reference}, "vqascore", Setting(T))


@pytest.fixture(scope="module", params=[4, T])
def row(request: pytest.FixtureRequest, part: Part) -> ResultRow:
    return part.row(request.param)


@pytest.fixture
def prompts(part: Part, row: ResultRow) -> Known:
    """Of each prompt, scores and references of the candidates that have both."""
    return [both_finite(*pair) for pair in zip(part.scores[row.position], part.reference, strict=True)]


def mean(of: Callable[[np.ndarray, np.ndarray], float], prompts: Known, least: int = 1) -> float:
    """Over the prompts of at least so many candidates for which it is a number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(np.nanmean([of(x, y) for x, y in prompts if len(x) >= least]))


def pick(x: np.ndarray, y: np.ndarray) -> float:
    return float(y[x == x.max()].mean())


def all_pairs(x: np.ndarray, y: np.ndarray, threshold: float) -> float:
    """Share of pairs ordered or tied alike, of a row too long for a loop."""
    i, j = np.triu_indices(len(x), 1)
    tied = abs(x[i] - x[j]) <= threshold
    return float(np.where(y[i] == y[j], tied, ~tied & ((x[i] - x[j]) * (y[i] - y[j]) > 0)).mean())


def test_agreement_within_prompts(part: Part, row: ResultRow, prompts: Known) -> None:
    for figure, scipys in (
        (row.spearman, stats.spearmanr),
        (row.kendall, stats.kendalltau),
        (row.pearson, stats.pearsonr),
    ):
        assert figure == pytest.approx(mean(lambda x, y, of=scipys: of(x, y).statistic, prompts, 2), abs=1e-9)  # type: ignore[misc]
    own = [both_finite(*pair) for pair in zip(part.scores[row.position], part.scores[T], strict=True)]
    assert row.self_consistency == pytest.approx(mean(lambda x, y: stats.spearmanr(x, y).statistic, own, 2), abs=1e-9)
    assert row.gap == pytest.approx(
        mean(lambda x, y: x[y == y.max()].mean() - x[y == y.min()].mean() if np.ptp(y) else np.nan, prompts), abs=1e-9
    )
    assert row.tie_threshold is not None
    accuracies = {limit: mean(lambda x, y, at=limit: brute_accuracy(x, y, at), prompts, 2) for limit in range(8)}  # type: ignore[misc]
    assert row.pairwise_accuracy == pytest.approx(max(accuracies.values()), abs=1e-9)
    assert accuracies[int(row.tie_threshold)] == pytest.approx(row.pairwise_accuracy, abs=1e-9)


def test_agreement_of_all_candidates_pooled(row: ResultRow, prompts: Known) -> None:
    x, y = (np.concatenate(side) for side in zip(*prompts, strict=True))
    assert row.spearman_global == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-9)
    assert row.kendall_global == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-9)
    assert row.pearson_global == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-9)
    assert row.pairwise_accuracy_global == pytest.approx(max(all_pairs(x, y, limit) for limit in range(8)), abs=1e-9)


def test_selection(part: Part, row: ResultRow, prompts: Known) -> None:
    assert row.best_of_n == pytest.approx(mean(pick, prompts), abs=1e-9)
    assert row.top1 == pytest.approx(mean(lambda x, y: float(np.mean(y[x == x.max()] == y.max())), prompts), abs=1e-9)
    assert row.regret == pytest.approx(mean(lambda x, y: y.max() - pick(x, y), prompts), abs=1e-9)
    _, clip = noisy_scores(1)
    chosen = []  # of the prompts that have all: the pick, a random one, that of `clip` among all, the best of all
    for (x, y), by, reference in zip(prompts, clip, part.reference, strict=True):
        judge, judged = both_finite(by, reference)
        if len(x) and len(judge):
            every = reference[np.isfinite(reference)]
            chosen.append((pick(x, y), every.mean(), pick(judge, judged), every.max()))
    picks, random, final, best = np.mean(chosen, axis=0)
    assert row.retention == pytest.approx(picks / final, abs=1e-9)
    assert row.recovered_gain == pytest.approx((picks - random) / (final - random), abs=1e-9)
    assert row.oracle_gain == pytest.approx((picks - random) / (best - random), abs=1e-9)


def test_best_of_every_n(part: Part, row: ResultRow, prompts: Known) -> None:
    for selection in part.selection(row.position):
        subsets = [
            np.mean([pick(x[list(some)], y[list(some)]) for some in itertools.combinations(range(len(x)), selection.n)])
            for x, y in prompts
            if len(x) >= selection.n
        ]
        assert selection.best_of_n == pytest.approx(np.mean(subsets), abs=1e-9)
        assert selection.cost_steps == selection.n * row.position + T - row.position


def test_telling_the_misaligned(part: Part, row: ResultRow, prompts: Known) -> None:
    cut = np.nanmedian(part.reference)
    x, y = (np.concatenate(side) for side in zip(*prompts, strict=True))
    low, high = x[y < cut], x[y >= cut]
    above = stats.mannwhitneyu(high, low).statistic / (len(low) * len(high))
    assert row.misaligned_auroc == pytest.approx(above, abs=1e-9)

    def f1(some: Known, at: float) -> float:
        alarms, bad = (np.concatenate(side) for side in zip(*((x <= at, y < cut) for x, y in some), strict=True))
        return 2 * (alarms & bad).sum() / (alarms.sum() + bad.sum())

    levels = np.unique(x)
    assert row.misaligned_threshold == max(levels, key=lambda at: (round(f1(prompts, at), 12), -at))
    half = np.random.default_rng(0).permutation(P) % 2
    right = alarms = 0
    for fold in (0, 1):
        mine, others = ([prompts[p] for p in range(P) if (half[p] == fold) == own] for own in (True, False))
        at = max(levels, key=lambda level: (round(f1(others, level), 12), -level))
        right += sum(((x <= at) & (y < cut)).sum() for x, y in mine)
        alarms += sum((x <= at).sum() for x, _ in mine)
    assert row.misaligned_precision == pytest.approx(right / alarms, abs=1e-9)
    assert row.misaligned_recall == pytest.approx(right / len(low), abs=1e-9)


def test_counts(part: Part, row: ResultRow, prompts: Known) -> None:
    both = sum(len(x) for x, _ in prompts)
    either = np.isfinite(part.scores[row.position]) | np.isfinite(part.reference)
    assert (row.n_scored, row.n_unscored) == (both, either.sum() - both)
