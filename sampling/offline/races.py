"""Searches policies that look at scores: races, which drop candidates of little chance, and restarts.

Their cost depends on the scores, so a policy is within a budget if its mean cost over the prompts at hand is. Every
prompt is played with chances that were calibrated on the other folds of prompts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from ...benchmarks.metrics import Array
from ..policy import Policy, Stage
from .calibration import held_out_weights
from .outcomes import play
from .recorded_scores import Recorded
from .search import Problem

LEVELS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3)
"""Chances below which candidates leave a race."""
_QUANTILES = tuple(round(0.05 * step, 2) for step in range(2, 20))
_MOST_POSITIONS = 8
_ORDERS = 60
_SLACK = 1e-9


@dataclass(frozen=True)
class Races:
    """Policies with their expected reference and cost per prompt, [R, P] each."""

    policies: list[Policy]
    picked: Array
    cost: Array

    def best(self, prompts: np.ndarray, limit: float) -> tuple[Policy, float] | None:
        """The policy that selects best of those within `limit` calls on average over `prompts`, and the sum of what it
        selects; ties: the cheapest."""
        if not self.policies:
            return None
        cost, picked = self.cost[:, prompts].mean(-1), self.picked[:, prompts].sum(-1)
        picked = np.where(cost <= limit + _SLACK, picked, -np.inf)
        top = np.flatnonzero(picked >= picked.max() - _SLACK)
        if not np.isfinite(picked.max()):
            return None
        number = top[cost[top].argmin()]
        return self.policies[number], float(picked[number])

    def within(self, limit: float) -> int:
        """How many cost at most `limit` calls on average."""
        return int((self.cost.mean(-1) <= limit + _SLACK).sum()) if self.policies else 0

    def outcome(self, policy: Policy) -> tuple[Array, Array]:
        """Expected reference and cost per prompt, [P] each."""
        number = self.policies.index(policy)
        return self.picked[number], self.cost[number]


def search_races(problem: Problem, recorded: Recorded) -> Races:
    """All races and restarts of the grid that some budget up to the limit of `problem` may pay for."""
    return played_all((*races(problem), *restarts(problem)), problem, recorded)


def played_all(candidates: Iterable[Policy], problem: Problem, recorded: Recorded, recall: bool = True) -> Races:
    """Those of `candidates` whose mean cost is within the limit of `problem`, as they fare on each prompt.

    recall: as of `play`.
    """
    policies, picked, cost = list[Policy](), list[Array](), list[Array]()
    calibrations: dict[tuple[int, ...], dict[int, Array]] = {}  # by positions: levels and draws do not change them
    for policy in candidates:
        places = tuple(stage.position for stage in policy.stages)
        if places not in calibrations:
            calibrations[places] = held_out_weights(recorded, policy, problem.folds)
        weights = calibrations[places]
        outcomes = play(
            problem.scores,
            problem.reference,
            policy,
            problem.n,
            problem.costs,
            problem.steps,
            weights,
            _ORDERS,
            recall,
        )
        if outcomes.cost.mean() <= problem.limit + _SLACK:
            policies.append(policy)
            picked.append(outcomes.picked)
            cost.append(outcomes.cost)
    return Races(policies, np.array(picked), np.array(cost))


def races(problem: Problem) -> Iterator[Policy]:
    """Of 2 to n candidates: at each stage but the last, all whose chance is high enough continue, then the best one."""
    costs = problem.costs
    for drawn in problem.draws:
        for count in range(2, problem.max_stages + 1):
            for places in combinations(thinned(problem), count):
                end = min(places[0] + min(costs.calls_per_score, 1), problem.steps)
                more = (costs.steps(drawn) - costs.steps(1)) * end + costs.scores(drawn)
                if costs.one(problem.steps) + more > problem.limit:
                    continue
                for level in LEVELS:
                    stages = [Stage(place, drawn, level) for place in places[:-1]]
                    yield Policy((*stages, Stage(places[-1], 1)), None if drawn == problem.n else drawn)


def restarts(problem: Problem) -> Iterator[Policy]:
    """One or two candidates at a time; at one or two stages, others are drawn below a quantile of the scores there."""
    levels = {place: _levels(scores) for place, scores in problem.scores.items()}
    for drawn in range(1, min(2, problem.n - 1) + 1):
        for place in problem.positions:
            for level in levels[place]:
                yield Policy((Stage(place, 1, restart=level),), drawn)
        if problem.max_stages > 1:
            for first, last in combinations(thinned(problem), 2):
                for low, high in product(levels[first][::5], levels[last][2::4]):
                    yield Policy((Stage(first, drawn, restart=low), Stage(last, 1, restart=high)), drawn)


def _levels(scores: Array) -> list[float]:
    levels = np.unique(np.quantile(scores[np.isfinite(scores)], _QUANTILES))
    return sorted({float(f"{level:.4g}") for level in levels})


def thinned(problem: Problem) -> list[int]:
    """At most eight positions, evenly spaced among those allowed."""
    positions = problem.positions
    if len(positions) <= _MOST_POSITIONS:
        return list(positions)
    return sorted({positions[round(place)] for place in np.linspace(0, len(positions) - 1, _MOST_POSITIONS)})
