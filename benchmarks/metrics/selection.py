"""Selection of the best candidate by scores: its reference score, gain and cost. Conventions: arrays.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .arrays import ROUNDING, Array, highest, paired, ratio, standing
from .declaration import Cell, Figure, Mean, Metric, OfMeans


def best_of_n(scores: Array, reference: Array) -> Array:
    """Reference of the candidate that `scores` pick; among equal scores the mean (a fair draw).

    Returns float [P]; NaN where no candidate counts.

    >>> best_of_n(np.array([[0.3, 0.1, 0.3]]), np.array([[0.9, 0.5, 0.1]]))
    array([0.5])
    """
    scores, reference = paired(scores, reference)
    picked = scores == highest(scores)[:, None]
    return ratio(np.where(picked, reference, 0.0).sum(-1), picked.sum(-1))


def random_pick(reference: Array) -> Array:
    """Expected reference of a candidate drawn at random: float [P], NaN where none counts.

    >>> random_pick(np.array([[0.0, 1.0, np.nan]]))
    array([0.5])
    """
    return best_of_n(np.where(np.isnan(reference), np.nan, 0.0), reference)


def best_of_subsets(scores: Array, reference: Array, sizes: Sequence[int]) -> Array:
    """Expected reference of the best by `scores` of n candidates, over all subsets of n: float [P, len(sizes)].

    Exact: with m candidates, of which A score above a candidate and t level with it (itself included), that candidate
    is the pick with probability (C(m - A, n) - C(m - A - t, n)) / (t C(m, n)). Equal scores are a fair draw. NaN where
    fewer than n count.

    >>> best_of_subsets(np.array([[0.1, 0.2, 0.3]]), np.array([[0.0, 0.0, 1.0]]), [1, 2, 3]).round(3)
    array([[0.333, 0.667, 1.   ]])
    """
    scores, reference = paired(scores, reference)
    counted = np.isfinite(scores)
    place = standing(scores)
    totals, which = np.unique(counted.sum(-1), return_inverse=True)
    upto = np.where(counted, place.below + place.level, 0)  # m - A
    values = np.where(counted, reference, 0.0) / np.maximum(place.level, 1)
    expected = np.full((len(scores), len(sizes)), np.nan)
    share = np.ones((len(totals), scores.shape[1] + 1))  # C(a, n) / C(m, n) for each m and a
    column = {n: index for index, n in enumerate(sizes)}
    for n in range(1, max(sizes, default=0) + 1):
        left = totals - n + 1
        share *= ratio(np.maximum(np.arange(share.shape[1]) - n + 1, 0), np.where(left > 0, left, 0)[:, None])
        if n in column:
            picked = share[which[:, None], upto] - share[which[:, None], place.below * counted]
            expected[:, column[n]] = (picked * values).sum(-1)
    return expected


def retention(selected: float | Array, final: float | Array) -> Array:
    """Mean reference of the selected candidates as a share of what final-image selection reaches (any shape).

    >>> float(retention(0.75, 1.0))
    0.75
    """
    return ratio(np.asarray(selected, float), np.asarray(final, float))


def recovered_gain(selected: float | Array, random: float | Array, final: float | Array) -> Array:
    """Share of the gain of final-image selection over a random pick that the selection keeps (any shape).

    0: no better than random, 1: as good as final-image selection. NaN where final-image selection gains nothing; where
    it does worse than random, a share of that loss with its sign flipped. With the oracle as `final`: the oracle gain.

    >>> float(recovered_gain(0.75, 0.5, 1.0))
    0.5
    """
    return share_of_gain(np.asarray(selected - random, float), np.asarray(final - random, float))


def share_of_gain(gain: Array, whole: Array) -> Array:
    """`gain` as a share of `whole`, both gains over a random pick (any shape); NaN where `whole` is about 0.

    >>> share_of_gain(np.array([0.25, 0.25]), np.array([0.5, 1e-17]))
    array([0.5, nan])
    """
    return ratio(gain, np.where(np.abs(whole) > ROUNDING, whole, 0.0))


def cost_steps(n_candidates: int, position: int, steps: int, calls_per_position: int = 1) -> int:
    """Denoiser calls of a Best-of-N that selects at `position` of `steps` and finishes only the selected candidate.

    >>> [cost_steps(6, k, 50) for k in (0, 20, 50)]
    [50, 150, 300]
    """
    return (n_candidates * position + steps - position) * calls_per_position


def gain_area(costs: Array, gains: Array) -> Array:
    """Mean recovered gain over the span of costs, by trapezoids: float [K], [..., K] -> [...].

    1 if the whole gain is recovered at every cost; NaN for a single position or where a gain is undefined.

    >>> gain_area(np.array([50.0, 150.0, 300.0]), np.array([0.0, 1.0, 1.0]))
    array(0.8)
    """
    if len(costs) < 2 or costs[0] == costs[-1]:
        return np.full(gains.shape[:-1], np.nan)
    return np.asarray(np.trapezoid(gains, costs, axis=-1) / (costs[-1] - costs[0]))


def _comparable(cell: Cell) -> dict[str, Array]:
    """Per prompt the pick, a random pick, final-image selection and its gain; NaN unless the prompt has all of them."""
    complete = np.isfinite(cell.picks) & np.isfinite(cell.random) & np.isfinite(cell.final)
    values = {"selected": cell.picks, "random": cell.random, "final": cell.final, "gain": cell.final - cell.random}
    return {name: np.where(complete, value, np.nan) for name, value in values.items()}


def _compared(name: str) -> Callable[[Cell], Array]:
    return lambda cell: cell.once(_comparable)[name]


def _where_picked(cell: Cell, values: Array) -> Array:
    return np.where(np.isfinite(cell.picks), values, np.nan)


# a zero gain stays exactly 0 in a bootstrap draw only if the gains of the prompts are summed
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
        "1: as good; a random pick is often not far below",
        "no chooser",
        core=True,
        estimate=OfMeans(retention, selected=_compared("selected"), final=_compared("final")),
    ),
    Metric(
        "recovered_gain",
        "recovered gain",
        "(picks - random) / (final-image selection - random), of means",
        "0: random, 1: as good, above 1: better",
        "no chooser, or no gain of final-image selection, as with one candidate",
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
        "the same with the oracle (the best by the reference itself) in place of final-image selection",
        "up to 1",
        "the oracle gains nothing",
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
    "denoiser calls: (N k + T - k) times the calls per position",
    higher_is_better=False,
    whole=True,
)
GAIN_AREA = Figure(
    "gain_area",
    "gain area",
    "area under recovered gain over cost (trapezoidal rule), divided by the range of costs",
    "1: full gain at every cost",
    "one position, or a gain is null",
)
