"""What the metrics share: pairing of scores and reference, ranks within a row, and ratios that are NaN if undefined.

Everywhere in the metrics `scores` and `reference` are float [P, N] (P prompts, N candidates), higher is better, NaN
(or an infinity) where a candidate has no value. A candidate counts only where it has both a score and a reference. What
is undefined is NaN, never 0.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.intp]
Item = TypeVar("Item")
Result = TypeVar("Result")

ROUNDING = 1e-12
"""Means of equal values may differ by this much."""


def paired(scores: Array, reference: Array) -> tuple[Array, Array]:
    """Both, with NaN wherever either has no value."""
    counted = np.isfinite(scores) & np.isfinite(reference)
    return np.where(counted, scores, np.nan), np.where(counted, reference, np.nan)


_THREADS = 8  # more hold more memory
_SHORT_ROW = 32  # up to this length comparing all pairs is faster than sorting


class Ordered(NamedTuple):
    """Rows in ascending order, NaN last, with the run of equal values around each place: int [P, N] each.

    order: column indices; start, end: first and last place of the equal values (NaN equals nothing).
    """

    order: Indices
    start: Indices
    end: Indices


def ordered(values: Array) -> Ordered:
    """Order each row of float [P, N]."""
    n = values.shape[-1]
    order = np.argsort(values, axis=-1)
    inorder = np.take_along_axis(values, order, -1)
    changes = inorder[:, 1:] != inorder[:, :-1]
    edge, place = np.ones((len(values), 1), bool), np.arange(n)
    start = np.maximum.accumulate(np.where(np.hstack([edge, changes]), place, 0), axis=-1)
    last = np.where(np.hstack([changes, edge]), place, n - 1)
    return Ordered(order, start, np.minimum.accumulate(last[:, ::-1], axis=-1)[:, ::-1])


def at_once(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`function` of each item, in order, one thread per core: numpy releases the GIL while it sorts and counts."""
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        yield from pool.map(function, items)


class Standing(NamedTuple):
    """How many values of its row lie below, above and level with each value (itself included): int [P, N] each.

    A NaN has 0 of each and counts for no other value.
    """

    below: Indices
    above: Indices
    level: Indices


def standing(values: Array) -> Standing:
    """Place of each value of float [P, N] in its row.

    >>> [part.tolist() for part in standing(np.array([[0.5, 0.1, 0.5, np.nan]]))]
    [[[1, 0, 1, 0]], [[0, 2, 0, 0]], [[2, 1, 2, 0]]]
    """
    finite = np.isfinite(values)
    values = np.where(finite, values, np.nan)
    if values.shape[-1] <= _SHORT_ROW:
        columns = np.ascontiguousarray(values.T)  # rows are short and many, so loop over candidates
        below, above, level = (np.zeros(columns.shape, np.int16) for _ in range(3))
        for other in columns:
            below += columns > other
            above += columns < other
            level += columns == other
        return Standing(*(part.T.astype(np.intp) for part in (below, above, level)))
    order, start, end = ordered(values)
    places = []
    for part in (start, finite.sum(-1, keepdims=True) - 1 - end, end - start + 1):
        by_column = np.empty_like(part)
        np.put_along_axis(by_column, order, part, -1)
        places.append(np.where(finite, by_column, 0))
    return Standing(*places)


def highest(values: Array) -> Array:
    """Largest value of each row, ignoring NaN; NaN, without a warning, where a row has none."""
    return np.asarray(np.fmax.reduce(values, axis=-1))


def ratio(numerator: NDArray[Any], denominator: NDArray[Any]) -> Array:
    """Quotient, NaN where the denominator is 0 or not finite."""
    defined = np.isfinite(denominator) & (denominator != 0)
    shape = np.broadcast_shapes(np.shape(numerator), np.shape(denominator))
    return np.divide(numerator, denominator, out=np.full(shape, np.nan), where=defined)


def mean_over_prompts(values: Array) -> Array:
    """Mean of float [P, ...] over the prompts that have a value: [...], NaN where none has.

    >>> mean_over_prompts(np.array([[1.0, np.nan], [2.0, np.nan]]))
    array([1.5, nan])
    """
    finite = np.isfinite(values)
    return ratio(np.where(finite, values, 0.0).sum(0), finite.sum(0))
