"""Finds the policy that selects best within a budget on recorded scores, and measures it on held-out prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...console import table_text
from ...errors import NbenchError, check_range
from ..policy import Policy, PolicyFile, PolicyStage, write_policy
from .calibration import calibrated, folds_of
from .config import TuneConfig
from .expectation import expected_best
from .races import Races, search_races
from .recorded_scores import Recorded
from .replay import Estimate, Replay, estimates, policy_outcomes, replay
from .search import Problem, SearchResult, search

FRONTIER = (0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Budgets for which `nbench tune --frontier` shows the best policy."""


@dataclass(frozen=True, repr=False)
class Tuned:
    """The best policy within a budget.

    in_sample: its replay on all prompts, which is optimistic; held_out: figures when each fold's policy is chosen on
    the other folds; held_out_share: what those cost on the held-out prompts, of full Best-of-n's cost; fold_policies:
    those policies, without weights; met: number of policies compared; exhaustive: whether they are all
    policies of the grid within the budget.
    """

    policy: Policy
    budget: float
    in_sample: Replay
    held_out: dict[str, Estimate]
    held_out_share: float
    fold_policies: tuple[str, ...]
    met: int
    exhaustive: bool

    def __repr__(self) -> str:
        from .terminal import tuned_tables

        return table_text(tuned_tables([self]))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "policy": str(self.policy),
            "budget": self.budget,
            "held_out": {name: value.to_dict() for name, value in self.held_out.items()},
            "held_out_share": self.held_out_share,
            "fold_policies": list(self.fold_policies),
            "met": self.met,
            "exhaustive": self.exhaustive,
            "in_sample": self.in_sample.to_dict(),
        }


def tune(recorded: Recorded, config: TuneConfig, frontier: Sequence[float] = ()) -> list[Tuned]:
    """The best policy at the config's budget, then at each budget of `frontier` that allows one; deterministic.

    Uses the prompts where `n` candidates have scores at all positions of `recorded`.

    Raises:
        NbenchError: a setting out of range, too few prompts or candidates, or no policy within the budget.
    """
    _check(config)
    recorded = _whole(recorded, config)
    if any(recorded.steps < position for position in recorded.scores):
        raise NbenchError(
            f"scores at position {max(recorded.scores)} do not fit {recorded.steps} steps: give the right --steps"
        )
    full = config.costs.best_of(config.n, recorded.steps)
    folds = folds_of(len(recorded.reference), config.folds)
    problem = Problem(
        scores=recorded.scores,
        reference=recorded.reference,
        folds=folds,
        n=config.n,
        steps=recorded.steps,
        max_stages=config.max_stages,
        limit=max((config.budget, *frontier)) * full,
        costs=config.costs,
    )
    result = search(problem)
    races = search_races(problem, recorded) if config.adaptive else None
    cheapest = min(result.costs, default=np.inf)
    others = [share for share in frontier if share != config.budget and share * full >= cheapest]
    return [_at(budget, recorded, config, result, races) for budget in (config.budget, *others)]


def save(path: Path, tuned: Tuned, recorded: Recorded) -> None:
    """Write the policy with the setting that it was tuned for and its expected figures.

    Raises:
        NbenchError: the folder cannot be written.
    """
    row = tuned.in_sample.rows[0]
    expected = {name: estimate.to_dict()["value"] for name, estimate in tuned.held_out.items()}
    file = PolicyFile(
        stages=PolicyStage.of(tuned.policy),
        n=tuned.in_sample.n,
        drawn=tuned.policy.drawn,
        steps=tuned.in_sample.steps,
        model=recorded.model,
        bench_fingerprint=recorded.bench_fingerprint,
        budget=tuned.budget,
        expected={**expected, "calls": row.calls, "share": row.share},
    )
    write_policy(path, file)


def _at(
    budget: float, recorded: Recorded, config: TuneConfig, result: SearchResult, races: Races | None = None
) -> Tuned:
    full = config.costs.best_of(config.n, recorded.steps)
    limit = budget * full
    folds = range(config.folds)
    best = _best(result, races, folds, limit)
    if best is None:
        least = config.costs.one(recorded.steps) / full
        raise NbenchError(
            f"no policy fits a budget of {budget:g} of Best-of-{config.n}: one image alone costs {least:.3f}; raise it"
        )
    held_out, cost = np.full((2, len(recorded.reference)), np.nan)
    fold_policies = []
    for fold in folds:
        policy = _best(result, races, [other for other in folds if other != fold], limit)
        assert policy is not None
        fold_policies.append(policy)
        in_fold = result.problem.folds == fold
        if policy.fixed or races is None:
            outcomes = policy_outcomes(recorded.of(in_fold), policy, config.n, config.costs)
            held_out[in_fold], cost[in_fold] = outcomes.picked, outcomes.cost
        else:
            held_out[in_fold], cost[in_fold] = (values[in_fold] for values in races.outcome(policy))
    reference, n = recorded.reference, config.n
    choosers = ((reference, 1), (recorded.final, n), (reference, n))  # random, final-image selection, oracle
    marks = [expected_best(chooser, reference, count) for chooser, count in choosers]
    return Tuned(
        policy=calibrated(recorded, best),
        budget=budget,
        in_sample=replay(recorded, best, n, config.costs),
        held_out=estimates(held_out[:, None], np.stack(marks, axis=1))[0],
        held_out_share=float(cost.mean() / full),
        fold_policies=tuple(map(str, fold_policies)),
        met=int((np.array(result.costs) <= limit + 1e-9).sum()) + (0 if races is None else races.within(limit)),
        exhaustive=result.problem.exhaustive,
    )


def _best(result: SearchResult, races: Races | None, folds: Sequence[int], limit: float) -> Policy | None:
    """The policy that selects best on `folds`; a fixed one if one that looks at scores is no better."""
    fixed = result.best(folds, limit) if result.costs else None
    if races is None or fixed is None:
        return fixed
    prompts = np.isin(result.problem.folds, folds)
    best = races.best(prompts, limit)
    sums = result.sums_of(fixed)[list(folds)].sum()
    return fixed if best is None or best[1] <= sums + 1e-9 else best[0]


def _whole(recorded: Recorded, config: TuneConfig) -> Recorded:
    """Only the prompts that have `n` candidates with all scores, and only those candidates."""
    recorded = recorded.whole()
    prompts = np.isfinite(recorded.reference).sum(-1) >= config.n
    if prompts.sum() < 2 * config.folds:
        raise NbenchError(
            f"{prompts.sum()} prompts have {config.n} candidates with all scores: too few for {config.folds} folds; "
            "use fewer positions, candidates or folds"
        )
    return recorded.of(prompts)


def _check(config: TuneConfig) -> None:
    if config.n < 2:
        raise NbenchError(f"{config.n} candidates leave nothing to choose: take 2 or more")
    if not 0 < config.budget <= 1:
        raise NbenchError(f"budget {config.budget:g} is not a share of full Best-of-{config.n}: give one in 0..1")
    check_range("--max-stages", config.max_stages)
    check_range("--folds", config.folds, 2)
