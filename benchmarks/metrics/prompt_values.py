"""Per-prompt values in columns; their means and ratios of means with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .arrays import Array, Indices, mean_over_prompts
from .declaration import CI, Figure, Metric, OfMeans
from .statistics import bootstrap_means, percentiles

_ORDER = (
    "spearman", "kendall", "gap", "best_of_n", "pearson", "pairwise_accuracy", "top1", "regret", "self_consistency",
    "right", "alarms", "misaligned", "blind", "oracle", "whole", "selected", "random", "final", "gain",
)  # fmt: skip
"""Order of resampling; other columns follow. Sums in float32 differ in the seventh digit with the order of columns, and
the intervals of results must stay the same between versions."""


class Columns:
    """Per-prompt values by (position, name); equal columns are stored and resampled once."""

    def __init__(self) -> None:
        self._number_of: dict[bytes, int] = {}
        self._values: list[Array] = []
        self._index: dict[tuple[int, str], int] = {}

    def add(self, position: int, columns: Mapping[str, Array]) -> None:
        for name in sorted(columns, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER)):
            values = columns[name]
            number = self._number_of.setdefault(values.tobytes(), len(self._values))
            if number == len(self._values):
                self._values.append(values)
            self._index[position, name] = number

    def means(self, prompts: Indices | None = None, names: Sequence[str] | None = None) -> Means:
        """Means and bootstrap draws; `prompts` and `names` restrict them to some prompts and columns."""
        index = {key: number for key, number in self._index.items() if names is None or key[1] in names}
        numbers = sorted(set(index.values()))
        place = {number: column for column, number in enumerate(numbers)}
        values = np.stack([self._values[number] for number in numbers], axis=1)
        values = values if prompts is None else values[prompts]
        index = {key: place[number] for key, number in index.items()}
        return Means(index, mean_over_prompts(values), bootstrap_means(values))


@dataclass(frozen=True)
class Means:
    """Means of the columns, and their bootstrap draws [R, columns]."""

    index: Mapping[tuple[int, str], int]
    means: Array
    draws: Array

    def of(self, metric: Metric, position: int, suffix: str = "") -> tuple[Array, Array]:
        """A metric at a position, and its draws [R]; `suffix` is appended to the names of its columns."""
        columns = [self.index[position, name + suffix] for name in metric.columns()]
        means, draws = [np.asarray(self.means[column]) for column in columns], [self.draws[:, c] for c in columns]
        if isinstance(metric.estimate, OfMeans):
            return metric.estimate.of(*means), metric.estimate.of_draws(*draws)
        return means[0], draws[0]


def with_interval(figure: Figure, value: Array, draws: Array) -> dict[str, float | CI]:
    """A figure as fields of a row, with the percentile interval of its draws [R]."""
    low, high = percentiles(draws) if np.isfinite(value) and np.isfinite(draws).all() else (np.nan, np.nan)
    return figure.fields(value, low, high)
