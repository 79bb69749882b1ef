"""Values of each prompt in columns, and what comes of them: means and ratios of means with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..results.result_file import CI
from .arrays import Array, Indices, mean_over_prompts, ratio
from .selection import recovered_gain, retention, share_of_gain
from .statistics import bootstrap_means, percentiles


class Columns:
    """Values of each prompt, by (position, name); equal columns are kept, and resampled, once."""

    def __init__(self) -> None:
        self._kept: dict[bytes, int] = {}
        self._values: list[Array] = []
        self._index: dict[tuple[int, str], int] = {}

    def add(self, position: int, **columns: Array) -> None:
        for name, values in columns.items():
            number = self._kept.setdefault(values.tobytes(), len(self._values))
            if number == len(self._values):
                self._values.append(values)
            self._index[position, name] = number

    def means(self, prompts: Indices | None = None, names: Sequence[str] | None = None) -> Means:
        """Means and bootstrap draws, of some prompts and names if given."""
        index = {key: number for key, number in self._index.items() if names is None or key[1] in names}
        wanted = sorted(set(index.values()))
        place = {number: column for column, number in enumerate(wanted)}
        values = np.stack([self._values[number] for number in wanted], axis=1)
        values = values if prompts is None else values[prompts]
        index = {key: place[number] for key, number in index.items()}
        return Means(index, mean_over_prompts(values), bootstrap_means(values))


@dataclass(frozen=True)
class Means:
    index: Mapping[tuple[int, str], int]
    means: Array
    draws: Array

    def ratio_of(self, position: int, kind: str, size: str = "") -> tuple[Array, Array]:
        """A ratio of means, and its draws [R]."""

        def at(name: str) -> tuple[Array, Array]:
            column = self.index[position, name + size]
            return np.asarray(self.means[column]), self.draws[:, column]

        if kind == "retention":
            return tuple(map(retention, at("selected"), at("final")))  # type: ignore[return-value]
        if kind in ("precision", "recall"):
            return tuple(map(ratio, at("right"), at("alarms" if kind == "precision" else "misaligned")))  # type: ignore[return-value]
        chosen, best, gain = (
            ("best_of_n", "oracle", "whole") if kind == "oracle_gain" else ("selected", "final", "gain")
        )
        blind = at("blind" if kind == "oracle_gain" else "random")
        (selected, drawn), (best_mean, _), (_, whole) = at(chosen), at(best), at(gain)
        # a gain of nothing is exactly 0 in the draws only if prompts' gains were summed
        return recovered_gain(selected, blind[0], best_mean), share_of_gain(drawn - blind[1], whole)

    def mean_of(self, position: int, name: str) -> tuple[Array, Array]:
        """A mean, and its draws [R]."""
        column = self.index[position, name]
        return np.asarray(self.means[column]), self.draws[:, column]


def known(value: float | Array) -> float | None:
    """As a figure of a result: null where it cannot be told."""
    return float(value) if np.isfinite(value) else None


def ci(low: float | Array, high: float | Array) -> CI:
    """As an interval of a result."""
    return (float(low), float(high)) if np.isfinite(low) and np.isfinite(high) else None


def figure(name: str, value: Array, draws: Array) -> dict[str, float | CI]:
    low, high = percentiles(draws) if np.isfinite(value) and np.isfinite(draws).all() else (np.nan, np.nan)
    return {name: known(value), f"{name}_ci": ci(low, high)}
