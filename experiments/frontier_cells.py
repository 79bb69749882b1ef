"""Gain kept at a cost: policies chosen on some folds of prompts within a budget, measured on the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np

from ..benchmarks.metrics import Array
from ..sampling.offline.calibration import folds_of, held_out_weights
from ..sampling.offline.config import Costs
from ..sampling.offline.expectation import expected_best
from ..sampling.offline.outcomes import play
from ..sampling.offline.races import played_all, thinned
from ..sampling.offline.recorded_scores import Recorded
from ..sampling.offline.replay import Estimate, estimates, policy_outcomes
from ..sampling.offline.search import Problem, SearchResult, search
from ..sampling.policy import Policy
from ..training.stack import held_out_sums
from .frontier_plans import Policies
from .measure import YARDSTICK

SHARES = (0.17, 0.2, 0.22, 0.25, 0.3, 0.35, 0.5)
"""Budgets, of the cost of full Best-of-6: all candidates are finished, decoded and scored by CLIP."""
TUNED_BY = "vqascore"
JUDGES = (TUNED_BY, "truth")
FOLDS, STAGES = 5, 3

Choice = Callable[[int, float], Policy | None]
"""The policy for the prompts of a fold within a cost, chosen on the others; None: none fits."""


def frontier(
    recorded: Recorded,
    judges: dict[str, Array],
    costs: Costs,
    full: float,
    policies: Policies | None = None,
    recall: bool = True,
) -> list[dict[str, Any]]:
    """A cell per budget and judge: the gain of policies chosen on other folds, by the recorded reference.

    Budgets that no policy fits have no cell.

    Args:
        full: cost of full Best-of-n, in denoiser calls.
        policies: the family; None: all fixed policies.
        recall: as of `outcomes.play`.
    """
    problem = _problem(recorded, costs, full)
    if policies is None:
        return _cells(judges, problem, full, _by_sums(search(problem)), lambda _: recorded)
    adaptive = played_all(policies(problem), problem, recorded, recall)

    def choice(fold: int, limit: float) -> Policy | None:
        best = adaptive.best(problem.folds != fold, limit)
        return None if best is None else best[0]

    return _cells(judges, problem, full, choice, lambda _: recorded, recall)


def stack_frontier(
    recorded: Sequence[Recorded], judges: dict[str, Array], costs: Costs, full: float
) -> list[dict[str, Any]]:
    """As `frontier`, of fixed policies by stacks of scorers, each of the scores at all stages of its policy.

    A prompt's stacks are fitted on the other folds.

    Args:
        recorded: of each scorer.
        costs: those of all scorers together.
    """
    problem = _problem(recorded[0], costs, full)
    found, stacks = SearchResult(problem), dict[tuple[int, ...], Recorded]()
    for count in range(1, STAGES + 1):
        for places in combinations(thinned(problem), count):
            features = np.stack([[each.at(place) for place in places] for each in recorded], -1)  # [K, P, N, M]
            sums = held_out_sums(features.transpose(1, 2, 0, 3), problem.reference, problem.folds)
            scores = {place: sums[..., number] for number, place in enumerate(places)}
            stacks[places] = replace(recorded[0], scores=scores)
            result = search(replace(problem, scores=scores, max_stages=count))
            for policy, cost, own in zip(result.policies, result.costs, result.sums, strict=True):
                if len(policy[1]) == count:  # it scores at all places of the stack
                    found.policies.append(policy)
                    found.costs.append(cost)
                    found.sums.append(own)
    return _cells(
        judges,
        problem,
        full,
        _by_sums(found),
        lambda policy: stacks[tuple(stage.position for stage in policy.stages)],
    )


def _problem(recorded: Recorded, costs: Costs, full: float) -> Problem:
    folds, n = folds_of(len(recorded.reference), FOLDS), recorded.reference.shape[1]
    return Problem(recorded.scores, recorded.reference, folds, n, recorded.steps, STAGES, max(SHARES) * full, costs)


def _by_sums(result: SearchResult) -> Choice:
    def choice(fold: int, limit: float) -> Policy | None:
        others = [other for other in range(FOLDS) if other != fold]
        return result.best(others, limit) if result.costs else None

    return choice


def _cells(
    judges: dict[str, Array],
    problem: Problem,
    full: float,
    choice: Choice,
    scores_of: Callable[[Policy], Recorded],
    recall: bool = True,
) -> list[dict[str, Any]]:
    """`scores_of`: what a policy chooses by."""
    cells, folds = [], problem.folds
    for share in SHARES:
        picked = {judge: np.full(len(folds), np.nan) for judge in JUDGES}
        cost, chosen = np.full(len(folds), np.nan), []
        for fold in range(FOLDS):
            policy = choice(fold, share * full)
            if policy is None:
                break
            chosen.append(str(policy))
            for judge in JUDGES:
                outcomes = _held_out(judges[judge], scores_of(policy), policy, problem, recall)
                picked[judge][folds == fold] = outcomes[0][folds == fold]
                cost[folds == fold] = outcomes[1][folds == fold]
        if len(chosen) == FOLDS:
            policies_chosen = sorted(set(chosen), key=chosen.count, reverse=True)
            for judge in JUDGES:
                gain = _gain(picked[judge], judges[judge], judges[YARDSTICK])
                cells.append(_cell(share, judge, gain, float(cost.mean() / full)) | {"policies": policies_chosen})
    return cells


def _held_out(judge: Array, recorded: Recorded, policy: Policy, problem: Problem, recall: bool) -> tuple[Array, Array]:
    """What `policy` selects, by the judge, and its cost; its chances are calibrated by the recorded reference."""
    judged = replace(recorded, reference=judge)
    if policy.fixed:
        outcomes = policy_outcomes(judged, policy, problem.n, problem.costs)
    else:
        weights = held_out_weights(recorded, policy, problem.folds)
        outcomes = play(judged.scores, judge, policy, problem.n, problem.costs, judged.steps, weights, recall=recall)
    return outcomes.picked, outcomes.cost


def _gain(picked: Array, reference: Array, final: Array) -> Estimate:
    n = reference.shape[1]
    marks = [expected_best(reference, reference, 1), expected_best(final, reference, n), reference.max(1)]
    return estimates(picked[:, None], np.stack(marks, 1))[0]["recovered_gain"]


def _cell(share: float, judge: str, gain: Estimate, spent: float) -> dict[str, Any]:
    return {
        "share": share,
        "reference": judge,
        "recovered_gain": [round(value, 3) for value in gain],
        "spent": round(spent, 4),
    }


def plain_cells(judges: dict[str, Array]) -> list[dict[str, Any]]:
    """Best-of-m by CLIP on finished images, of as many as the budget pays for."""
    n = judges[YARDSTICK].shape[1]
    cells = []
    for share in SHARES:
        m = max(1, int(share * n + 1e-9))
        for judge in JUDGES:
            picked = expected_best(judges[YARDSTICK], judges[judge], m)
            cells.append(
                _cell(share, judge, _gain(picked, judges[judge], judges[YARDSTICK]), m / n) | {"policies": [f"{m}"]}
            )
    return cells


def oracle_rows(
    judges: dict[str, Array], costs: Costs, full: float, steps: int, places: Sequence[int]
) -> list[dict[str, Any]]:
    """By position: the gain of one that sees the final score and keeps the best of m there, m as the budget allows."""
    n = judges[YARDSTICK].shape[1]
    free = replace(costs, score=0.0, calls_per_score=0)
    rows = []
    for place in places:
        cells = []
        for share in SHARES:
            affordable = [m for m in range(2, n + 1) if _acting(free, m, place, steps) <= share * full]
            m = max(affordable, default=1)
            for judge in JUDGES:
                picked = expected_best(judges[judge], judges[judge], m)
                gain = _gain(picked, judges[judge], judges[YARDSTICK])
                cells.append(_cell(share, judge, gain, _acting(free, m, place, steps) / full) | {"policies": [f"{m}"]})
        rows.append({"row": f"sees the final score at {place}", "cells": cells})
    return rows


def _acting(costs: Costs, drawn: int, place: int, steps: int) -> float:
    return float(costs.steps(drawn) * place + costs.steps(1) * (steps - place) + costs.decodes(1))
