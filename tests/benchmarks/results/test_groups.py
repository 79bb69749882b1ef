"""Groups of a leaderboard against brute force, from the tables beside the results, without the bench."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from nbench.benchmarks import evaluate as module
from nbench.benchmarks.evaluate import evaluate
from nbench.benchmarks.evaluate_config import EvaluateConfig
from nbench.benchmarks.results.formats import BOARD_FORMATS
from nbench.benchmarks.results.groups import contest
from nbench.benchmarks.results.leaderboard import leaderboard
from nbench.benchmarks.scoring.score import score_bench
from nbench.scorers.registry import get_scorer
from nbench.shards.scores import reference_path, write_scores

from ...small_bench import PROMPTS, STEPS, make_bench
from ..scoring.test_score import Brightness


def by_hand(values: dict[str, np.ndarray]) -> set[frozenset[str]]:
    """Every largest set of models without a significant pair; p-values of scipy, Holm's correction spelled out."""
    pairs = list(combinations(values, 2))
    p_values = [stats.ttest_rel(values[a], values[b]).pvalue for a, b in pairs]
    apart, order = set(), np.argsort(p_values)
    for rank, index in enumerate(order):
        if p_values[index] * (len(pairs) - rank) >= 0.05:
            break
        apart.add(frozenset(pairs[index]))
    names = list(values)
    sets = [
        frozenset(group)
        for size in range(1, len(names) + 1)
        for group in combinations(names, size)
        if not any(frozenset(pair) in apart for pair in combinations(group, 2))
    ]
    return {group for group in sets if not any(group < other for other in sets)}


@pytest.mark.parametrize("seed", range(6))
def test_groups_are_the_largest_sets_that_cannot_be_told_apart(seed: int) -> None:
    rng = np.random.default_rng(seed)
    levels = np.sort(rng.uniform(0, 1.2, 6))
    values = {f"m{number}": level + rng.normal(0, 1, 60) for number, level in enumerate(levels)}
    groups = contest(values).groups
    letters = set("".join(groups.values()))
    assert {frozenset(model for model in groups if letter in groups[model]) for letter in letters} == by_hand(values)
    best = max(values, key=lambda model: values[model].mean())
    assert "a" in groups[best]


def test_a_leaderboard_groups_models_without_the_bench(tmp_path: Path) -> None:
    bench, _ = make_bench(tmp_path / "small")
    origin = {"scorer_fingerprint": "1", "bench_fingerprint": bench.info.fingerprint}
    write_scores(reference_path(bench.path, "clip"), score_bench(bench, Brightness(reads="image"), [STEPS]), origin)
    twin = Brightness()
    twin.name, twin.fingerprint = "twin", "2"
    scorers = {"brightness": Brightness(), "twin": twin}
    out = tmp_path / "results"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "get_scorer", lambda name, *rest: scorers.get(name) or get_scorer(name, *rest))
        evaluate(EvaluateConfig(bench.path, ("random", "brightness", "twin"), "8", out))
    bench.path.rename(tmp_path / "gone")
    board = leaderboard(out, position=8)
    groups = {line.model: line.group for line in board.lines if not line.yardstick}
    assert groups == {"brightness": "a", "twin": "a", "random": "b"}
    (held,) = json.loads(BOARD_FORMATS["json"](board))["contests"]
    assert (held["bench"], held["reference"], held["n_prompts"]) == ("small", "clip", PROMPTS)
    (out / "small" / "references" / "clip.arrow").unlink()
    assert {line.group for line in leaderboard(out).lines} == {""}  # nothing to test with
