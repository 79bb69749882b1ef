"""Selection of the best candidate by scores: what it reaches, keeps, gains and costs. Conventions: arrays.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .arrays import ROUNDING, Array, highest, paired, ratio, standing
from .declaration import Cell, Figure, Mean, Metric, OfMeans


def best_of_n(scores: Array, reference: Array) -> Array:
    """Reference of the candidate that `scores` would pick; among equals, their mean (a fair draw).

    Returns float [P]; NaN where no candidate counts.

    >>> best_of_n(np.array([[0.3, 0.1, 0.3]]), np.array([[0.9, 0.5, 0.1]]))
    array([0.5])
    """
    scores, reference = paired(scores, reference)
    picked = scores == highest(scores)[:, None]
    return ratio(np.where(picked, reference, 0.0).sum(-1), picked.sum(-1))


def random_pick(reference: Array) -> Array:
    """Expected reference of a candidate drawn blindly: float [P], NaN where none counts.

    >>> random_pick(np.array([[0.0, 1.0, np.nan]]))
    array([0.5])
    """
    return best_of_n(np.where(np.isnan(reference), np.nan, 0.0), reference)


def best_of_subsets(scores: Array, reference: Array, sizes: Sequence[int]) -> Array:
    """Expected reference of the best by `scores` of n candidates, over all subsets of n: float [P, len(sizes)].

    Exact: of m candidates with A above and t level with it, one is the pick with the chance
    (C(m - A, n) - C(m - A - t, n)) / (t C(m, n)). Equal scores are a fair draw. NaN where fewer than n count.

    >>> best_of_subsets(np.array([[0.1, 0.2, 0.3]]), np.array([[0.0, 0.0, 1.0]]), [1, 2, 3]).round(3)
    array([[0.333, 0.667, 1.   ]])
    """
    scores, reference = paired(scores, reference)
    known = np.isfinite(scores)
    place = standing(scores)
    totals, which = np.unique(known.sum(-1), return_inverse=True)
    upto = np.where(known, place.below + place.level, 0)  # m - A
    values = np.where(known, reference, 0.0) / np.maximum(place.level, 1)
    found = np.full((len(scores), len(sizes)), np.nan)
    share = np.ones((len(totals), scores.shape[1] + 1))  # C(a, n) / C(m, n) for each m and a
    column = {n: index for index, n in enumerate(sizes)}
    for n in range(1, max(sizes, default=0) + 1):
        rest = totals - n + 1
        share *= ratio(np.maximum(np.arange(share.shape[1]) - n + 1, 0), np.where(rest > 0, rest, 0)[:, None])
        if n in column:
            picked = share[which[:, None], upto] - share[which[:, None], place.below * known]
            found[:, column[n]] = (picked * values).sum(-1)
    return found


def retention(selected: float | Array, final: float | Array) -> Array:
    """Mean reference of the selected candidates as a share of what final-image selection reaches (any shape).

    >>> float(retention(0.75, 1.0))
    0.75
    """
    return ratio(np.asarray(selected, float), np.asarray(final, float))


def recovered_gain(selected: float | Array, random: float | Array, final: float | Array) -> Array:
    """Share of the gain of final-image selection over a random pick that the selection keeps (any shape).

    0: no better than random, 1: as good as final-image selection; NaN where that gains nothing, and a share of a loss,
    signs turned, where it does worse than random. With the reference's own best in its place it is the oracle gain.

    >>> float(recovered_gain(0.75, 0.5, 1.0))
    0.5
    """
    return share_of_gain(np.asarray(selected - random, float), np.asarray(final - random, float))


def share_of_gain(kept: Array, whole: Array) -> Array:
    """`kept` as a share of `whole`, both gains over a random pick (any shape); NaN where the whole is about 0.

    >>> share_of_gain(np.array([0.25, 0.25]), np.array([0.5, 1e-17]))
    array([0.5, nan])
    """
    return ratio(kept, np.where(np.abs(whole) > ROUNDING, whole, 0.0))


def cost_steps(n_candidates: int, position: int, steps: int, calls_per_position: int = 1) -> int:
    """Denoiser calls of a Best-of-N that chooses at `position` of `steps` and finishes only the chosen one.

    >>> [cost_steps(6, k, 50) for k in (0, 20, 50)]
    [50, 150, 300]
    """
    return (n_candidates * position + steps - position) * calls_per_position


def gain_area(costs: Array, gains: Array) -> Array:
    """Mean recovered gain over the span of costs, by trapezoids: float [K], [..., K] -> [...].

    1 where the whole gain is kept at every cost; NaN for a single position or where a gain is unknown.

    >>> gain_area(np.array([50.0, 150.0, 300.0]), np.array([0.0, 1.0, 1.0]))
    array(0.8)
    """
    if len(costs) < 2 or costs[0] == costs[-1]:
        return np.full(gains.shape[:-1], np.nan)
    return np.asarray(np.trapezoid(gains, costs, axis=-1) / (costs[-1] - costs[0]))


def _comparable(cell: Cell) -> dict[str, Array]:
    """The picks, a random pick, final-image selection and what it gains, of the prompts that have all of them."""
    complete = np.isfinite(cell.picks) & np.isfinite(cell.random) & np.isfinite(cell.final)
    values = {"selected": cell.picks, "random": cell.random, "final": cell.final, "gain": cell.final - cell.random}
    return {name: np.where(complete, value, np.nan) for name, value in values.items()}


def _compared(name: str) -> Callable[[Cell], Array]:
    return lambda cell: cell.once(_comparable)[name]


def _where_picked(cell: Cell, values: Array) -> Array:
    return np.where(np.isfinite(cell.picks), values, np.nan)


# a gain of nothing is exactly 0 in a bootstrap draw only if the gains of the prompts are summed
METRICS = (
    Metric(
        "best_of_n",
        "Best-of-N",
        "reference of the pick among all candidates of a prompt; constant scores give the random pick",
        "as the reference",
        "nothing scored",
        core=True,
        estimate=Mean(lambda cell: cell.picks),
    ),
    Metric(
        "retention",
        "retention",
        "mean of the picks / mean of final-image selection",
        "1: as good; a random pick is not far below",
        "no chooser",
        core=True,
        estimate=OfMeans(retention, selected=_compared("selected"), final=_compared("final")),
    ),
    Metric(
        "recovered_gain",
        "recovered gain",
        "(picks - random) / (final-image selection - random), of means",
        "0: random, 1: as good, above 1: better",
        "no chooser, or it gains nothing, as with one candidate",
        core=True,
        estimate=OfMeans(
            lambda selected, random, final, gain: recovered_gain(selected, random, final),
            lambda selected, random, final, gain: share_of_gain(selected - random, gain),
            **{name: _compared(name) for name in ("selected", "random", "final", "gain")},
        ),
    ),
    Metric(
        "oracle_gain",
        "oracle gain",
        "the same with the reference's own best in place of final-image selection",
        "up to 1",
        "no gain to be had",
        bounds=(-np.inf, 1),
        estimate=OfMeans(
            lambda best_of_n, blind, oracle, whole: recovered_gain(best_of_n, blind, oracle),
            lambda best_of_n, blind, oracle, whole: share_of_gain(best_of_n - blind, whole),
            best_of_n=lambda cell: cell.picks,
            blind=lambda cell: _where_picked(cell, cell.random),
            oracle=lambda cell: _where_picked(cell, cell.oracle),
            whole=lambda cell: _where_picked(cell, cell.oracle - cell.random),
        ),
    ),
)

COST_STEPS = Figure(
    "cost_steps",
    "steps",
    "denoiser calls: (N k + T - k) times the calls a position costs",
    higher_is_better=False,
    whole=True,
)
GAIN_AREA = Figure(
    "gain_area",
    "gain area",
    "area under recovered gain over cost, by trapezoids, divided by the span of costs",
    "1: all gain at every cost",
    "one position, or a gain that is null",
)
