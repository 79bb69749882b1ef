"""Power against simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from nbench.benchmarks.metrics.power import prompts_to_show, smallest_difference
from nbench.errors import NbenchError


def test_the_smallest_difference_is_found_four_times_in_five() -> None:
    rng, n_prompts, spread = np.random.default_rng(0), 50, 0.6
    draws = rng.normal(smallest_difference(spread, n_prompts), spread, (4000, n_prompts))
    found = stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("candidates", [3, 6])
def test_spearman_of_unrelated_scores_spreads_as_assumed(candidates: int) -> None:
    rng = np.random.default_rng(0)
    ranks = rng.permuted(np.tile(np.arange(float(candidates)), (3, 20_000, 1)), axis=2)
    ranks = (ranks - ranks.mean(2, keepdims=True)) / ranks.std(2, keepdims=True)
    difference = (ranks[0] * ranks[2]).mean(1) - (ranks[1] * ranks[2]).mean(1)  # two models, one reference
    needed = prompts_to_show(0.1, candidates)
    assert smallest_difference(float(difference.std()), needed) == pytest.approx(0.1, rel=0.03)


@pytest.mark.parametrize(("difference", "candidates"), [(0, 6), (-0.1, 6), (3, 6), (float("nan"), 6), (0.1, 1)])
def test_what_cannot_be_shown_is_refused(difference: float, candidates: int) -> None:
    with pytest.raises(NbenchError, match="--mde"):
        prompts_to_show(difference, candidates)
