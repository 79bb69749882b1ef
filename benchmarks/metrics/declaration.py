"""The declaration of a figure: name, heading, direction, range and definition; for a metric also how to compute it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

import numpy as np

from .arrays import Array

CI = tuple[float, float] | None
"""Lower and upper end of a 95 % interval over prompts; null where there is none."""

SHARE = (0.0, 1.0)
CORRELATION = (-1.0, 1.0)
"""Lowest and highest value."""

Value = TypeVar("Value")


def or_none(value: float | Array) -> float | None:
    """A float, or None (null in results) where the value is undefined."""
    return float(value) if np.isfinite(value) else None


@dataclass(frozen=True)
class Cell:
    """One model's scores at one position and one reference: what a metric is computed from.

    scores, reference: float [P, N], NaN in both where either is missing; all_scores: also those without a reference;
    own_final: the model's own scores at the final position, None if it has none; random, final, oracle: float [P], the
    reference of a random pick, of final-image selection and of the best candidate; picks: float [P], the reference of
    the candidate that the scores select; misaligned_below: the reference below which a candidate is misaligned.
    """

    scores: Array
    reference: Array
    all_scores: Array
    own_final: Array | None
    random: Array
    final: Array
    oracle: Array
    picks: Array
    misaligned_below: float
    _cache: dict[Callable[[Any], Any], Any] = field(default_factory=dict, repr=False)

    def once(self, function: Callable[[Cell], Value]) -> Value:
        """`function` of this cell, computed once for all metrics that use it."""
        if function not in self._cache:
            self._cache[function] = function(self)
        return cast(Value, self._cache[function])

    def picking(self, picks: Array) -> Cell:
        """The same cell with another selection."""
        return replace(self, picks=picks, _cache={})


@dataclass(frozen=True)
class Mean:
    """The mean over prompts of float [P]."""

    values: Callable[[Cell], Array]

    def columns(self, name: str) -> dict[str, Callable[[Cell], Array]]:
        return {name: self.values}


class OfMeans:
    """A function of means over prompts, such as a ratio.

    of: takes the mean of each column, in order; of_draws: takes the means of each bootstrap draw, float [R], default
    `of`; columns: float [P] each; metrics that use the same name use the same column.
    """

    def __init__(
        self,
        of: Callable[..., Array],
        of_draws: Callable[..., Array] | None = None,
        **columns: Callable[[Cell], Array],
    ) -> None:
        self.of, self.of_draws, self._columns = of, of_draws or of, columns

    def columns(self, name: str) -> dict[str, Callable[[Cell], Array]]:
        return self._columns


@dataclass(frozen=True)
class Pooled:
    """A statistic of all candidates of all prompts; `statistic` of a cell takes scores and reference [R, M] to [R]."""

    statistic: Callable[[Cell], Callable[[Array, Array], Array]]


@dataclass(frozen=True)
class Figure:
    """A figure of a result.

    name: in result files and `--json`, where the interval is `<name>_ci`; heading: in tables and on the page;
    definition, range, null: Markdown for docs/metrics.md, what it is, its range in words, and when it is null; bounds:
    the lowest and highest possible value; whole: a count, without an interval.
    """

    name: str
    heading: str
    definition: str
    range: str = ""
    null: str = ""
    bounds: tuple[float, float] = (-np.inf, np.inf)
    higher_is_better: bool = True
    whole: bool = False

    def fields(self, value: float | Array, low: float | Array, high: float | Array) -> dict[str, float | CI]:
        """The figure and its interval as fields of a row, null where undefined; the interval stays inside the range."""
        ends = None
        if np.isfinite(low) and np.isfinite(high):
            ends = (float(np.clip(low, *self.bounds)), float(np.clip(high, *self.bounds)))
        return {self.name: or_none(value), f"{self.name}_ci": ends}


@dataclass(frozen=True)
class Metric(Figure):
    """A figure of every row of a result: one model at one position against one reference.

    estimate: how to compute it; core: one of the few columns shown in a terminal.
    """

    estimate: Mean | OfMeans | Pooled = field(kw_only=True)
    core: bool = False

    def columns(self) -> Mapping[str, Callable[[Cell], Array]]:
        """The per-prompt values, float [P], that it is computed from; none for a pooled metric."""
        return {} if isinstance(self.estimate, Pooled) else self.estimate.columns(self.name)
