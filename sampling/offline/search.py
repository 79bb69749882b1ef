"""All policies of a grid, or those that a beam finds, each with its sum of selected references by fold.

Exhaustive: policies are grown from their last stage. The value of every set of living candidates under the stages so
far, [P, sets], serves all policies that end so, however many they draw; a first stage is then one look-up a set that
may be drawn. With K positions and L stages of 2 to n candidates, sum over l <= L of C(K, l) C(n - 1, l) policies cost
O(P C(N, m)) each that draws m, and the K n^2 / 2 transitions that they share O(P C(N, n / 2) n log n) each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations, pairwise
from math import comb

import numpy as np

from ...benchmarks.metrics import Array
from ..policy import Policy, Stage
from .config import Costs
from .expectation import Transition, expected_selection, few_sets, set_means, start_weights, transition

_EXHAUSTIVE_CELLS = 2_000_000_000  # look-ups: a minute
_KEPT_CELLS = 60_000_000  # of transitions, at 8 bytes
_BEAM = 8
_ROUNDS = 30
_SLACK = 1e-9

Stages = tuple[tuple[int, int], ...]
"""Position and keep of each stage."""
Drawn = tuple[int, Stages]
"""How many candidates are drawn, and the stages."""


@dataclass(frozen=True)
class Problem:
    """What is searched: policies of at most `max_stages` stages, from 2 to `n` candidates to 1, within `limit`.

    scores (by position), reference: float [P, N], NaN in the same places; folds: int [P], of each prompt;
    limit: calls a prompt.
    """

    scores: dict[int, Array]
    reference: Array
    folds: np.ndarray
    n: int
    steps: int
    max_stages: int
    limit: float
    costs: Costs

    @property
    def positions(self) -> tuple[int, ...]:
        """Ascending."""
        return tuple(sorted(self.scores))

    @property
    def draws(self) -> range:
        """How many may be drawn: fewer than n only where the expectation over all sets of them is exact."""
        exact = few_sets(self.reference.shape[1], self.n, range(1, self.n))
        return range(2 if exact else self.n, self.n + 1)

    def n_policies(self, drawn: int) -> int:
        """How many of the grid draw so many candidates, whatever they cost."""
        stages = range(1, min(self.max_stages, drawn - 1) + 1)
        return sum(comb(len(self.scores), many) * comb(drawn - 2, many - 1) for many in stages)

    def policy(self, found: Drawn) -> Policy:
        """As others read it."""
        drawn, stages = found
        return Policy(tuple(Stage(*stage) for stage in stages), None if drawn == self.n else drawn)

    @property
    def exhaustive(self) -> bool:
        """Whether the whole grid can be gone through."""
        (n_prompts, n_candidates), n, places = self.reference.shape, self.n, len(self.scores)
        if not few_sets(n_candidates, n, range(1, n)):
            return False
        widths = [comb(n_candidates, alive) for alive in range(n + 1)]
        kept = 2 * places * sum((alive - 1) * widths[alive] for alive in range(2, n + 1))  # as first stages, too
        tails = sum(comb(places, many) * comb(n - 1, many) for many in range(1, self.max_stages))
        looked_up = sum(self.n_policies(drawn) * widths[drawn] for drawn in range(2, n + 1)) + tails * max(widths[:n])
        return kept * n_prompts <= _KEPT_CELLS and looked_up * n_prompts <= _EXHAUSTIVE_CELLS

    def sums(self, picks: Array) -> Array:
        """Sum of picks, float [..., P], by fold: [..., folds]."""
        return picks @ (self.folds[:, None] == np.arange(self.folds.max() + 1)).astype(float)


@dataclass
class Found:
    """Policies of a problem with their costs in calls and sums by fold, in the order in which they were met."""

    problem: Problem
    met: list[Drawn] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    sums: list[Array] = field(default_factory=list)

    def best(self, folds: Sequence[int], limit: float) -> Policy | None:
        """The policy with the highest sum over `folds` within `limit` calls; of equals the cheapest, then simplest."""
        costs = np.array(self.costs)
        values = np.where(costs <= limit + _SLACK, np.array(self.sums)[:, folds].sum(-1), -np.inf)
        top = np.flatnonzero(values >= values.max() - _SLACK * max(1.0, abs(values.max())))
        if not np.isfinite(values.max()):
            return None
        found = min((round(costs[i], 9), len(self.met[i][1]), self.met[i]) for i in top)[2]
        return self.problem.policy(found)


def search(problem: Problem) -> Found:
    """Every policy of the grid within the limit, or those that the beam met."""
    return _Grid(problem).search() if problem.exhaustive else _beam(problem)


class _Grid:
    def __init__(self, problem: Problem) -> None:
        self.problem, self.found = problem, Found(problem)
        self.ends = [min(k + problem.costs.calls_per_score, problem.steps) for k in problem.positions]
        self.weights = cache(lambda drawn: start_weights(np.isfinite(problem.reference), drawn))
        self.transition = cache(self._transition)
        self.firsts = cache(self._firsts)

    def search(self) -> Found:
        last = self.problem.steps + self.problem.costs.decode
        self._grow(set_means(self.problem.reference, 1), 1, len(self.ends), last, ())
        return self.found

    def _transition(self, place: int, alive: int, keep: int) -> Transition:
        return transition(self.problem.scores[self.problem.positions[place]], alive, keep)

    def _firsts(self, drawn: int, keep: int) -> tuple[np.ndarray, list[bool]]:
        """Of first stages: where each leads, [K, P, sets of `drawn`], and whether equals matter there."""
        made = [self.transition(place, drawn, keep) for place in range(len(self.ends))]
        return np.stack([one.flat for one in made]), [one.tied.size > 0 for one in made]

    def _grow(self, values: Array, alive: int, upto: int, tail: float, suffix: Stages) -> None:
        """Put each possible stage before `suffix`, which begins with `alive` candidates at a place >= `upto`.

        values: [P, sets of `alive`]; tail: cost of the suffix as if its candidates had lived from call 0.
        """
        n, score, limit = self.problem.n, self.problem.costs.score, self.problem.limit + _SLACK
        for drawn in range(alive + 1, n + 1):
            whole = [tail + drawn * score + (drawn - alive) * end for end in self.ends[:upto]]
            places = [place for place, cost in enumerate(whole) if cost <= limit]
            if places:
                self._finish(values, drawn, alive, places, whole, suffix)
        if len(suffix) + 1 >= self.problem.max_stages:
            return
        for before in range(alive + 1, n):
            for place in range(1, upto):
                longer = tail + before * score + (before - alive) * self.ends[place]
                if longer + (before + 1) * score + self.ends[0] > limit:
                    break  # later places cost more
                stage = (self.problem.positions[place], alive)
                self._grow(
                    self.transition(place, before, alive).before(values), before, place, longer, (stage, *suffix)
                )

    def _finish(
        self, values: Array, drawn: int, keep: int, places: list[int], whole: list[float], suffix: Stages
    ) -> None:
        flat, tied = self.firsts(drawn, keep)
        outcome = values.ravel()[flat[: places[-1] + 1]]  # costs ascend with the place, so places are 0..last
        for place in places:
            if tied[place]:
                outcome[place] = self.transition(place, drawn, keep).before(values)
        sums = self.problem.sums((outcome * self.weights(drawn)).sum(-1))
        self.found.met += [(drawn, ((self.problem.positions[place], keep), *suffix)) for place in places]
        self.found.costs += [whole[place] for place in places]
        self.found.sums += list(sums)


def _beam(problem: Problem) -> Found:
    """From the best of a coarse grid to neighbours, until the best no longer change."""
    found, met = Found(problem), set[Drawn]()

    def meet(candidates: Iterable[Drawn]) -> None:
        for one in candidates:
            if one in met:
                continue
            met.add(one)
            drawn, stages = one
            cost = problem.costs.of(problem.policy(one), problem.n, problem.steps)
            if cost <= problem.limit + _SLACK:
                scores = [problem.scores[position] for position, _ in stages]
                picks = expected_selection(scores, [keep for _, keep in stages], problem.reference, drawn)
                found.met.append(one)
                found.costs.append(cost)
                found.sums.append(problem.sums(picks))

    meet(_coarse(problem))
    leaders: list[Drawn] = []
    for _ in range(_ROUNDS):
        order = np.argsort([-sums.sum() for sums in found.sums], kind="stable")[:_BEAM]
        if leaders == (leaders := [found.met[i] for i in order]):
            break
        meet(near for one in leaders for near in _neighbours(problem, *one))
    return found


def _coarse(problem: Problem) -> Iterable[Drawn]:
    """Up to eight positions, evenly spread, and numbers of candidates that halve."""
    positions = problem.positions
    some = sorted({positions[round(i)] for i in np.linspace(0, len(positions) - 1, 8)})
    halves = sorted({-(-problem.n // 2**i) for i in range(problem.n.bit_length())} - {1}, reverse=True)
    for many in range(1, min(problem.max_stages, problem.n - 1) + 1):
        for places in combinations(some, many):
            for drawn, *keeps in combinations(halves, many):
                if drawn in problem.draws:
                    yield drawn, tuple(zip(places, (*keeps, 1), strict=True))


def _neighbours(problem: Problem, drawn: int, stages: Stages) -> Iterable[Drawn]:
    """Some more or fewer candidates drawn, or kept at a stage; a stage moved by 1 or 3 places, or left out."""
    positions = problem.positions
    for other in _near(drawn):
        if other in problem.draws and _in_order(other, stages):
            yield other, stages
    for i, (position, keep) in enumerate(stages):
        place = positions.index(position)
        moved = [(positions[p], keep) for d in (-3, -1, 1, 3) if 0 <= (p := place + d) < len(positions)]
        kept = [(position, other) for other in _near(keep)] if i < len(stages) - 1 else []
        for stage in (*moved, *kept):
            near = (*stages[:i], stage, *stages[i + 1 :])
            if _in_order(drawn, near):
                yield drawn, near
        if i < len(stages) - 1:
            yield drawn, (*stages[:i], *stages[i + 1 :])


def _near(count: int) -> list[int]:
    quarter = max(2, count // 4)
    return [count - quarter, count - 1, count + 1, count + quarter]


def _in_order(drawn: int, stages: Stages) -> bool:
    places, keeps = [position for position, _ in stages], [drawn, *(keep for _, keep in stages)]
    return all(a < b for a, b in pairwise(places)) and all(a > b for a, b in pairwise(keeps)) and keeps[-1] == 1
