"""Searches all policies of a grid, or a beam of them, and sums each policy's selected references per fold.

Exhaustive search builds policies from the last stage backwards. The value of every set of living candidates under the
stages so far, [P, sets], is shared by all policies with the same ending, however many candidates they draw. A first
stage is then one look-up per set that may be drawn. With K positions and L stages of 2 to n candidates, there are
sum over l <= L of C(K, l) C(n - 1, l) policies; one that draws m candidates costs O(P C(N, m)). They share K n^2 / 2
transitions, each of O(P C(N, n / 2) n log n).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations, pairwise
from math import comb

import numpy as np

from ...benchmarks.metrics import Array
from ...shards.signals import extra_calls
from ..policy import Policy, Stage
from .config import Costs
from .expectation import Transition, expected_selection, few_sets, set_means, start_weights, transition

_MAX_LOOKUPS = 2_000_000_000  # takes a minute
_MAX_TRANSITION_CELLS = 60_000_000  # 8 bytes each
_BEAM = 8
_ROUNDS = 30
_SLACK = 1e-9

Stages = tuple[tuple[int, int], ...]
"""Position and keep of each stage."""
Drawn = tuple[int, Stages]
"""Number of candidates drawn, and the stages."""


@dataclass(frozen=True)
class Problem:
    """The search space: policies of at most `max_stages` stages, from 2 to `n` candidates down to 1, within `limit`.

    scores (by position), reference: float [P, N], NaN in the same places; folds: int [P], the fold of each prompt;
    limit: calls per prompt.
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
        """Allowed numbers of candidates to draw: fewer than n only where the expectation over subsets is exact."""
        exact = few_sets(self.reference.shape[1], self.n, range(1, self.n))
        return range(2 if exact else self.n, self.n + 1)

    def n_policies(self, drawn: int) -> int:
        """Number of policies in the grid that draw `drawn` candidates, at any cost."""
        counts = range(1, min(self.max_stages, drawn - 1) + 1)
        return sum(comb(len(self.scores), count) * comb(drawn - 2, count - 1) for count in counts)

    def policy(self, candidate: Drawn) -> Policy:
        """As a `Policy`."""
        drawn, stages = candidate
        return Policy(tuple(Stage(*stage) for stage in stages), None if drawn == self.n else drawn)

    @property
    def exhaustive(self) -> bool:
        """Whether the grid is small enough to search all of it."""
        (n_prompts, n_candidates), n, places = self.reference.shape, self.n, len(self.scores)
        if not few_sets(n_candidates, n, range(1, n)):
            return False
        widths = [comb(n_candidates, alive) for alive in range(n + 1)]
        cells = 2 * places * sum((alive - 1) * widths[alive] for alive in range(2, n + 1))  # twice: as first stages too
        tails = sum(comb(places, count) * comb(n - 1, count) for count in range(1, self.max_stages))
        lookups = sum(self.n_policies(drawn) * widths[drawn] for drawn in range(2, n + 1)) + tails * max(widths[:n])
        return cells * n_prompts <= _MAX_TRANSITION_CELLS and lookups * n_prompts <= _MAX_LOOKUPS

    def sums(self, picks: Array) -> Array:
        """Sum of picks, float [..., P], per fold: [..., folds]."""
        return picks @ (self.folds[:, None] == np.arange(self.folds.max() + 1)).astype(float)


@dataclass
class SearchResult:
    """The policies evaluated for a problem, with costs in calls and sums per fold, in order of evaluation."""

    problem: Problem
    policies: list[Drawn] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    sums: list[Array] = field(default_factory=list)

    def best(self, folds: Sequence[int], limit: float) -> Policy | None:
        """The policy with the highest sum over `folds` within `limit` calls; ties: the cheapest, then the simplest."""
        costs = np.array(self.costs)
        values = np.where(costs <= limit + _SLACK, np.array(self.sums)[:, folds].sum(-1), -np.inf)
        top = np.flatnonzero(values >= values.max() - _SLACK * max(1.0, abs(values.max())))
        if not np.isfinite(values.max()):
            return None
        *_, simplest = min((round(costs[i], 9), len(self.policies[i][1]), self.policies[i]) for i in top)
        return self.problem.policy(simplest)

    def sums_of(self, policy: Policy) -> Array:
        """The sums per fold of one of the policies."""
        drawn = self.problem.n if policy.drawn is None else policy.drawn
        return self.sums[self.policies.index((drawn, tuple((stage.position, stage.keep) for stage in policy.stages)))]


def search(problem: Problem) -> SearchResult:
    """Every policy of the grid within the limit, or those that the beam evaluated."""
    return _Grid(problem).search() if problem.exhaustive else _beam(problem)


class _Grid:
    def __init__(self, problem: Problem) -> None:
        self.problem, self.result = problem, SearchResult(problem)
        calls = problem.costs.calls_per_score
        self.ends = [min(k + min(calls, 1), problem.steps) for k in problem.positions]
        self.ahead = [extra_calls(calls, k, problem.steps) for k in problem.positions]
        self.weights = cache(lambda drawn: start_weights(np.isfinite(problem.reference), drawn))
        self.transition = cache(self._transition)
        self.firsts = cache(self._firsts)

    def search(self) -> SearchResult:
        self._grow(
            set_means(self.problem.reference, 1), 1, len(self.ends), self.problem.costs.one(self.problem.steps), ()
        )
        return self.result

    def _transition(self, place: int, alive: int, keep: int) -> Transition:
        return transition(self.problem.scores[self.problem.positions[place]], alive, keep)

    def _firsts(self, drawn: int, keep: int) -> tuple[np.ndarray, list[bool]]:
        """The transitions of first stages, [K, P, sets of `drawn`], and whether each has ties."""
        transitions = [self.transition(place, drawn, keep) for place in range(len(self.ends))]
        return np.stack([each.flat for each in transitions]), [each.tied.size > 0 for each in transitions]

    def _grow(self, values: Array, alive: int, upto: int, tail: float, suffix: Stages) -> None:
        """Put each possible stage before `suffix`, which starts with `alive` candidates at a place >= `upto`.

        values: [P, sets of `alive`]; tail: cost of the suffix with its candidates counted from call 0.
        """
        n, costs, limit = self.problem.n, self.problem.costs, self.problem.limit + _SLACK
        for drawn in range(alive + 1, n + 1):
            more, score, step = costs.steps(drawn) - costs.steps(alive), costs.scores(drawn), costs.steps(drawn)
            ends = zip(self.ends[:upto], self.ahead, strict=False)
            whole = [tail + score + step * ahead + more * end for end, ahead in ends]
            places = [place for place, cost in enumerate(whole) if cost <= limit]
            if places:
                self._finish(values, drawn, alive, places, whole, suffix)
        if len(suffix) + 1 >= self.problem.max_stages:
            return
        for before in range(alive + 1, n):
            for place in range(1, upto):
                longer = tail + costs.scores(before) + costs.steps(before) * self.ahead[place]
                longer += (costs.steps(before) - costs.steps(alive)) * self.ends[place]
                more = costs.steps(before + 1) - costs.steps(before)
                if longer + costs.scores(before + 1) + more * self.ends[0] > limit:
                    continue
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
        self.result.policies += [(drawn, ((self.problem.positions[place], keep), *suffix)) for place in places]
        self.result.costs += [whole[place] for place in places]
        self.result.sums += list(sums)


def _beam(problem: Problem) -> SearchResult:
    """Start from the best of a coarse grid and evaluate neighbours until the best no longer change."""
    result, visited = SearchResult(problem), set[Drawn]()

    def evaluate(candidates: Iterable[Drawn]) -> None:
        for candidate in candidates:
            if candidate in visited:
                continue
            visited.add(candidate)
            drawn, stages = candidate
            cost = problem.costs.of(problem.policy(candidate), problem.n, problem.steps)
            if cost <= problem.limit + _SLACK:
                scores = [problem.scores[position] for position, _ in stages]
                picks = expected_selection(scores, [keep for _, keep in stages], problem.reference, drawn)
                result.policies.append(candidate)
                result.costs.append(cost)
                result.sums.append(problem.sums(picks))

    evaluate(_coarse(problem))
    leaders: list[Drawn] = []
    for _ in range(_ROUNDS):
        order = np.argsort([-sums.sum() for sums in result.sums], kind="stable")[:_BEAM]
        if leaders == (leaders := [result.policies[i] for i in order]):
            break
        evaluate(near for leader in leaders for near in _neighbours(problem, *leader))
    return result


def _coarse(problem: Problem) -> Iterable[Drawn]:
    """Policies at up to eight evenly spaced positions, with numbers of candidates that halve."""
    positions = problem.positions
    spaced = sorted({positions[round(i)] for i in np.linspace(0, len(positions) - 1, 8)})
    halves = sorted({-(-problem.n // 2**i) for i in range(problem.n.bit_length())} - {1}, reverse=True)
    for count in range(1, min(problem.max_stages, problem.n - 1) + 1):
        for stage_positions in combinations(spaced, count):
            for drawn, *keeps in combinations(halves, count):
                if drawn in problem.draws:
                    yield drawn, tuple(zip(stage_positions, (*keeps, 1), strict=True))


def _neighbours(problem: Problem, drawn: int, stages: Stages) -> Iterable[Drawn]:
    """Policies with a few more or fewer candidates drawn or kept, a stage moved by 1 or 3 places, or one removed."""
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
