"""From the scores of a model trained with several seeds to figures with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..benchmarks.metrics.agreement import spearman
from ..benchmarks.metrics.arrays import Array, mean_over_prompts
from ..benchmarks.metrics.selection import best_of_n, random_pick, recovered_gain
from ..benchmarks.metrics.statistics import bootstrap_means, percentiles
from ..benchmarks.score_tables.bench import bench_layout, final_references
from ..benchmarks.scoring.score import score_bench
from ..scorers.registry import get_scorer
from ..shards.reader import open_bench
from ..shards.scores import scores_at
from .data import SEEDS

YARDSTICK = "clip"
RESAMPLES = 2000


def score(bench_folder: Path, model: str, positions: Sequence[int]) -> Array:
    """Scores float [K, P, N] of the candidates of a bench at K positions."""
    bench = open_bench(bench_folder)
    table = score_bench(bench, get_scorer(model, bench.info), positions)
    names = [prompt.prompt_id for prompt in bench.prompts]
    by_position = (scores_at(table, position) for position in positions)
    return np.array(
        [
            [[scores.get((name, n), np.nan) for n in range(bench.info.candidates)] for name in names]
            for scores in by_position
        ]
    )


def references(bench_folder: Path) -> dict[str, Array]:
    """Scores [P, N] of the finished images by each reference of a bench."""
    bench = open_bench(bench_folder)
    return final_references(bench, bench_layout(bench))


def unseen(scores: Array, folds: Sequence[int]) -> Array:
    """Scores [1, K, P', N] of the prompts of `folds`, in order, each by the model that did not see its fold.

    Args:
        scores: [S, K, P, N] of the models that were trained without the prompts of a fold.
    """
    fold = np.arange(scores.shape[2]) % SEEDS
    kept = np.flatnonzero(np.isin(fold, folds))
    model = np.array([list(folds).index(each) for each in fold[kept]])
    return scores[model, :, kept].transpose(1, 0, 2)[None]


def figures(scores: Array, positions: Sequence[int], truth: dict[str, Array]) -> list[dict[str, Any]]:
    """Recovered gain and mean within-prompt Spearman by position and reference, each as (mean, low, high).

    The figures are means over the seeds; the intervals are 95 % bootstrap intervals over prompts of those means.

    Args:
        scores: [S, K, P, N] of the models of S seeds.
        truth: [P, N] by reference; final-image selection is by `YARDSTICK`.
    """
    cells = []
    for name, reference in truth.items():
        random, final = random_pick(reference), best_of_n(truth[YARDSTICK], reference)
        selected = [_mean([best_of_n(one[k], reference) for one in scores]) for k in range(len(positions))]
        agreement = [_mean([spearman(one[k], reference) for one in scores]) for k in range(len(positions))]
        columns = np.stack([random, final, *selected, *agreement], 1)
        means, draws = mean_over_prompts(columns), bootstrap_means(columns, RESAMPLES)
        for k, position in enumerate(positions, 2):
            gains = recovered_gain(draws[:, k], draws[:, 0], draws[:, 1])
            cells.append(
                {
                    "position": position,
                    "reference": name,
                    "recovered_gain": _figure(recovered_gain(means[k], means[0], means[1]), gains),
                    "spearman": _figure(means[k + len(positions)], draws[:, k + len(positions)]),
                    "selected": round(float(means[k]), 4),
                    "random": round(float(means[0]), 4),
                    "final": round(float(means[1]), 4),
                }
            )
    return cells


def _mean(values: Sequence[Array]) -> Array:
    """The mean over seeds, of those that count."""
    stacked = np.array(values)
    counted = np.isfinite(stacked)
    return np.where(counted.any(0), np.where(counted, stacked, 0).sum(0) / np.maximum(counted.sum(0), 1), np.nan)


def _figure(mean: Any, draws: Array) -> list[float]:
    """Mean, low and high end of its interval."""
    low, high = percentiles(draws[:, None])
    return [round(float(value), 3) for value in (mean, low[0], high[0])]
