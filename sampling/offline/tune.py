"""The policy that selects best within a budget, found by replaying recorded scores and judged on held-out prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import NbenchError
from ..policy import Policy, PolicyFile, PolicyStage, write_policy
from .config import TuneConfig
from .expectation import expected_best
from .recorded_scores import Recorded
from .replay import Estimate, Replay, estimates, policy_picks, replay
from .search import Found, Problem, search

FRONTIER = (0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Budgets at which `nbench tune --frontier` tells the best policy."""


@dataclass(frozen=True)
class Tuned:
    """The best policy within a budget.

    in_sample: its replay on all prompts, which flatters it; held_out: the figures when each fold's policy is chosen on
    the other folds, `fold_policies`; met: policies compared; exhaustive: those are all of the grid within the budget.
    """

    policy: Policy
    budget: float
    in_sample: Replay
    held_out: dict[str, Estimate]
    fold_policies: tuple[str, ...]
    met: int
    exhaustive: bool

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "policy": str(self.policy),
            "budget": self.budget,
            "held_out": {name: value.to_dict() for name, value in self.held_out.items()},
            "fold_policies": list(self.fold_policies),
            "met": self.met,
            "exhaustive": self.exhaustive,
            "in_sample": self.in_sample.to_dict(),
        }


def tune(recorded: Recorded, config: TuneConfig, frontier: Sequence[float] = ()) -> list[Tuned]:
    """The best policy at the config's budget, then at each budget of `frontier` that pays for one; deterministic.

    Prompts count where `n` candidates have scores at all positions of `recorded`.

    Raises:
        NbenchError: a setting out of range, too few prompts or candidates, or no policy within the budget.
    """
    _check(config)
    recorded = _whole(recorded, config)
    if any(recorded.steps < position for position in recorded.scores):
        raise NbenchError(f"scores at {max(recorded.scores)} of runs of {recorded.steps} steps: give the right --steps")
    full = config.costs.best_of(config.n, recorded.steps)
    folds = np.random.default_rng(0).permutation(len(recorded.reference)) % config.folds
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
    found = search(problem)
    others = [
        share for share in frontier if share != config.budget and share * full >= min(found.costs, default=np.inf)
    ]
    budgets = [config.budget, *others]
    return [_at(budget, recorded, config, problem, found) for budget in budgets]


def save(path: Path, tuned: Tuned, recorded: Recorded) -> None:
    """Write the policy with what it was tuned for and what to expect of it.

    Raises:
        NbenchError: the folder cannot be written.
    """
    row = tuned.in_sample.rows[0]
    expected = {name: estimate.to_dict()["value"] for name, estimate in tuned.held_out.items()}
    file = PolicyFile(
        stages=[PolicyStage(position=stage.position, keep=stage.keep) for stage in tuned.policy.stages],
        n=tuned.in_sample.n,
        drawn=tuned.policy.drawn,
        steps=tuned.in_sample.steps,
        model=recorded.model,
        bench_fingerprint=recorded.bench_fingerprint,
        budget=tuned.budget,
        expected={**expected, "calls": row.calls, "share": row.share},
    )
    write_policy(path, file)


def _at(budget: float, recorded: Recorded, config: TuneConfig, problem: Problem, found: Found) -> Tuned:
    limit = budget * config.costs.best_of(config.n, recorded.steps)
    everywhere = range(config.folds)
    best = found.best(everywhere, limit) if found.costs else None
    if best is None:
        least = (recorded.steps + config.costs.decode) / config.costs.best_of(config.n, recorded.steps)
        raise NbenchError(f"no policy costs {budget:g} of Best-of-{config.n} or less: one image alone is {least:.3f}")
    held = np.full(len(recorded.reference), np.nan)
    policies = []
    for fold in everywhere:
        chosen = found.best([other for other in everywhere if other != fold], limit)
        assert chosen is not None
        policies.append(chosen)
        here = problem.folds == fold
        held[here] = policy_picks(recorded.of(here), policies[-1], config.n)
    reference, n = recorded.reference, config.n
    choosers = ((reference, 1), (recorded.final, n), (reference, n))  # random, final-image selection, oracle
    marks = [expected_best(chooser, reference, many) for chooser, many in choosers]
    return Tuned(
        policy=best,
        budget=budget,
        in_sample=replay(recorded, best, n, config.costs),
        held_out=estimates(held[:, None], np.stack(marks, axis=1))[0],
        fold_policies=tuple(map(str, policies)),
        met=int((np.array(found.costs) <= limit + 1e-9).sum()),
        exhaustive=problem.exhaustive,
    )


def _whole(recorded: Recorded, config: TuneConfig) -> Recorded:
    """The prompts that have `n` candidates with all scores, and those candidates."""
    recorded = recorded.whole()
    prompts = np.isfinite(recorded.reference).sum(-1) >= config.n
    if prompts.sum() < 2 * config.folds:
        raise NbenchError(
            f"{prompts.sum()} prompts have {config.n} candidates with all scores: too few for {config.folds} folds, "
            "take fewer positions, candidates or folds"
        )
    return recorded.of(prompts)


def _check(config: TuneConfig) -> None:
    if config.n < 2:
        raise NbenchError(f"{config.n} candidates leave nothing to choose: take 2 or more")
    if not 0 < config.budget <= 1:
        raise NbenchError(f"budget {config.budget:g} is not a share of full Best-of-{config.n}: take one in 0..1")
    if config.max_stages < 1 or config.folds < 2:
        raise NbenchError("a policy has a stage at least, and cross-validation two folds")
