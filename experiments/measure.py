"""From the scores of a model trained with several seeds to figures with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..benchmarks.metrics.agreement import spearman
from ..benchmarks.metrics.arrays import Array
from ..benchmarks.metrics.selection import best_of_n, random_pick, recovered_gain
from ..benchmarks.metrics.statistics import bootstrap_means, percentiles
from ..benchmarks.score_tables.bench import bench_layout, final_references
from ..benchmarks.scoring.score import score_bench
from ..scorers.registry import get_scorer
from ..shards.reader import open_bench
from ..shards.scores import scores_at

YARDSTICK = "clip"


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
        for k, position in enumerate(positions):
            selected = np.mean([best_of_n(one[k], reference) for one in scores], axis=0)
            agreement = _mean([spearman(one[k], reference) for one in scores])
            draws = bootstrap_means(np.stack([selected, random, final, agreement], 1))
            means = [float(np.nanmean(column)) for column in (selected, random, final, agreement)]
            gains, rho = recovered_gain(*draws[:, :3].T), draws[:, 3]
            cells.append(
                {
                    "position": position,
                    "reference": name,
                    "recovered_gain": _rounded(float(recovered_gain(*means[:3])), gains),
                    "spearman": _rounded(means[3], rho),
                    "selected": round(means[0], 4),
                    "random": round(means[1], 4),
                    "final": round(means[2], 4),
                }
            )
    return cells


def _mean(values: Sequence[Array]) -> Array:
    """The mean over seeds, of those that count."""
    stacked = np.array(values)
    counted = np.isfinite(stacked)
    return np.where(counted.any(0), np.where(counted, stacked, 0).sum(0) / np.maximum(counted.sum(0), 1), np.nan)


def _rounded(mean: float, draws: Array) -> list[float]:
    low, high = percentiles(draws[:, None])
    return [round(value, 3) for value in (mean, float(low[0]), float(high[0]))]
