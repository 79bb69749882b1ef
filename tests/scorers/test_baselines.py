"""The random baseline: uniform, reproducible, and independent between its keys."""

import numpy as np
import pytest
from scipy import stats

from nbench.scorers.baselines import RandomScorer


def test_draws_are_uniform_and_the_same_on_every_run() -> None:
    ids, candidates = [f"p{i // 6}" for i in range(3000)], [i % 6 for i in range(3000)]
    draws = RandomScorer().score_names(ids, candidates, 20).numpy()
    assert stats.kstest(draws, "uniform").pvalue > 0.01
    np.testing.assert_array_equal(RandomScorer().score_names(ids[::-1], candidates[::-1], 20).numpy()[::-1], draws)
    assert float(RandomScorer().score_names(["p0"], [0], 20)) == pytest.approx(0.685132, abs=1e-6)  # on any machine


def test_positions_and_candidates_draw_apart() -> None:
    ids = [f"p{i}" for i in range(500)]
    one, other = (RandomScorer().score_names(ids, [0] * 500, position).numpy() for position in (20, 30))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.15
