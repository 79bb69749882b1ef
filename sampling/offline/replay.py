"""Replays policies on recorded scores: what they select and cost, beside random, oracle and plain Best-of-N.

Fixed policies are enumerated (`expectation`), those that look at scores are played (`outcomes`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...benchmarks.metrics import Array, mean_over_prompts, recovered_gain, retention
from ...benchmarks.metrics.statistics import bootstrap_means
from ...console import table_text
from ...errors import NbenchError
from ..policy import Policy, PolicyFile, PolicyStage, parse_policy, write_policy
from ..waves import stages_of
from .calibration import calibrated, held_out_weights
from .config import Costs
from .expectation import expected_best, expected_selection, is_exact
from .outcomes import Played, play, played
from .recorded_scores import Recorded

_SLACK = 1e-9
_RESAMPLED_PROMPTS = 200_000_000  # bootstrap draws x prompts: takes seconds


class Estimate(NamedTuple):
    """A figure over prompts with its bootstrap 95 % interval; NaN where it is undefined."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float | None]:
        """For JSON; NaN becomes null."""
        return {name: value if np.isfinite(value) else None for name, value in self._asdict().items()}


@dataclass(frozen=True)
class ReplayRow:
    """Figures of one way to select.

    seen: candidates per prompt; calls: cost per prompt; share: of full Best-of-n's cost; selected: mean reference;
    recovered_gain, oracle_gain: share of the gain over random of final-image selection and of the reference's own best;
    affords: candidates that the budget pays for, even if fewer are recorded; without a budget, as `seen`.
    """

    way: str
    seen: int
    calls: float
    share: float
    selected: Estimate
    recovered_gain: Estimate
    oracle_gain: Estimate
    retention: Estimate
    affords: int


@dataclass(frozen=True, repr=False)
class Replay:
    """A replay: its rows, and what they were computed from.

    exact: expectation over all subsets and ties, not over random draws; left_out: prompts that have all scores for
    fewer than n candidates.
    """

    model: str
    reference: str
    yardstick: str
    policy: str
    n: int
    steps: int
    recorded: int
    n_prompts: int
    left_out: int
    exact: bool
    rows: tuple[ReplayRow, ...]
    budget: float | None = None

    def __repr__(self) -> str:
        from .terminal import replay_table

        return table_text(replay_table(self))

    def to_dict(self) -> dict[str, Any]:
        """For JSON: estimates as value, low, high."""
        return vars(self) | {"rows": [row_dict(row) for row in self.rows]}


def row_dict(row: ReplayRow) -> dict[str, Any]:
    """A row for JSON."""
    return {name: value.to_dict() if isinstance(value, Estimate) else value for name, value in vars(row).items()}


def policy_outcomes(recorded: Recorded, policy: Policy, n: int, costs: Costs) -> Played:
    """Expected reference and cost of what `policy` selects from `n` candidates; NaN where fewer are usable.

    Chances without weights are calibrated on the other folds of prompts.

    Raises:
        NbenchError: the policy resamples.
    """
    if policy.branches:
        raise NbenchError(
            f"policy {policy} resamples: copies of a candidate take new ways, which recorded trajectories cannot; run "
            "it live (nbench sample, perf/best_of_n.py)"
        )
    if policy.fixed:
        scores = [recorded.at(stage.position) for stage in policy.stages]
        keeps = [stage.keep for stage in policy.stages]
        picked = expected_selection(scores, keeps, recorded.reference, policy.of(n))
        cost = np.full(len(picked), costs.of(policy, n, recorded.steps))
        return Played(picked, cost, is_exact(scores, policy.of(n), keeps))
    weights = held_out_weights(recorded, policy)
    return play(recorded.scores, recorded.reference, policy, n, costs, recorded.steps, weights)


def foretold(
    scores: Mapping[int, Array], policy: Policy, n: int, steps: int, costs: Costs | None = None
) -> tuple[list[int], list[float]]:
    """Per prompt, the candidate that a live run of the first `n` selects, and its cost.

    Args:
        scores: [P, N] at each position where candidates are compared.

    Raises:
        KeyError: there are none at a position.
    """
    last = Policy(stages_of(policy, steps, keep=1), policy.drawn)
    chosen, cost = played(
        {stage.position: scores[stage.position] for stage in last.stages},
        last,
        np.arange(n)[None],
        costs or Costs(),
        steps,
    )
    return chosen[:, 0].tolist(), cost[:, 0].tolist()


def replay(recorded: Recorded, policy: Policy, n: int, costs: Costs | None = None) -> Replay:
    """Replay `policy` with `n` candidates per prompt.

    Raises:
        NbenchError: the policy does not fit n, the steps or the recorded positions, or fewer than n candidates per
            prompt are recorded.
    """
    costs = costs or Costs()
    steps, full = recorded.steps, costs.best_of(n, recorded.steps)
    recorded = _usable(recorded, policy, n)
    policy.check(n, steps)
    outcomes = policy_outcomes(recorded, policy, n, costs)
    ways = {
        "policy": (n if policy.restarts else policy.of(n), mean_cost(outcomes), outcomes.picked),
        "random": (1, costs.one(steps), expected_best(recorded.reference, recorded.reference, 1)),
        "best-of-n": (n, full, expected_best(recorded.final, recorded.reference, n)),
        "oracle": (n, full, expected_best(recorded.reference, recorded.reference, n)),
    }
    return _report(recorded, policy, n, ways, full, outcomes.exact)


def save_replayed(path: Path, replayed: Replay, recorded: Recorded) -> None:
    """Write the replayed policy, with its chances calibrated, its setting, and the figures of the replay.

    Raises:
        NbenchError: the folder cannot be written.
    """
    policy, row = parse_policy(replayed.policy), replayed.rows[0]
    expected = {name: value.to_dict()["value"] for name, value in vars(row).items() if isinstance(value, Estimate)}
    file = PolicyFile(
        stages=PolicyStage.of(policy),
        n=replayed.n,
        drawn=policy.drawn,
        steps=replayed.steps,
        model=recorded.model,
        bench_fingerprint=recorded.bench_fingerprint,
        expected={**expected, "calls": row.calls, "share": row.share},
    )
    write_policy(path, file)


def mean_cost(outcomes: Played) -> float:
    """Mean cost over the prompts that count."""
    return float(np.nanmean(outcomes.cost)) if np.isfinite(outcomes.cost).any() else math.nan


def replay_budget(recorded: Recorded, policy: Policy, budget: float, costs: Costs | None = None) -> Replay:
    """Replay at a budget in calls per prompt: each way draws as many recorded candidates as it can afford.

    The policy keeps as many candidates per stage as it states; a larger budget only draws more of them, whatever
    number the policy itself states. Gains are relative to the selection of plain Best-of-N and to the best of the
    candidates that the policy draws (TTSnap's comparison, 2511.22242).

    Raises:
        NbenchError: the budget is too small for the policy or for one image; and as for `replay`.
    """
    costs = costs or Costs()
    steps, n_recorded = recorded.steps, recorded.reference.shape[1]
    if not policy.fixed:
        return _adaptive_budget(recorded, policy, budget, costs)
    policy = Policy(policy.stages)
    least = policy.stages[0].keep
    policy.check(max(n_recorded, least), steps)
    _check_budget(budget, max(costs.of(policy, least, steps), costs.best_of(1, steps)), policy, least)
    affordable = _most(lambda count: costs.of(policy, count, steps), least, budget)
    plain_affordable = _most(lambda count: costs.best_of(count, steps), 1, budget)
    n, plain = (min(count, n_recorded) for count in (affordable, plain_affordable))
    recorded = _usable(recorded, policy, max(n, plain))
    affords = {"policy": affordable, "random": 1, "best-of-n": plain_affordable, "oracle": affordable}
    return _at_budget(recorded, policy, policy_outcomes(recorded, policy, n, costs), n, plain, budget, costs, affords)


def _adaptive_budget(recorded: Recorded, policy: Policy, budget: float, costs: Costs) -> Replay:
    """A policy that looks at scores draws as many recorded candidates as it can afford on average over prompts."""
    steps, n_recorded = recorded.steps, recorded.reference.shape[1]
    least = policy.of(2)
    _check_budget(budget, costs.best_of(1, steps), policy, least)
    plain_affordable = _most(lambda count: costs.best_of(count, steps), 1, budget)
    plain = min(plain_affordable, n_recorded)
    recorded = _usable(recorded, policy, max(least, plain))
    best: tuple[int, Policy, Played] | None = None
    for count in range(least, n_recorded + 1):
        drawn = _of(policy, count)
        outcomes = policy_outcomes(recorded, drawn, count, costs)
        if not mean_cost(outcomes) <= budget + _SLACK:
            break
        best = count, drawn, outcomes
    if best is None:
        _check_budget(budget, mean_cost(policy_outcomes(recorded, _of(policy, least), least, costs)), policy, least)
    assert best is not None
    n, policy, outcomes = best
    affords = {"policy": n, "random": 1, "best-of-n": plain_affordable, "oracle": n}
    return _at_budget(recorded, policy, outcomes, n, plain, budget, costs, affords)


def _of(policy: Policy, count: int) -> Policy:
    """`policy` for `count` candidates: one that restarts draws as many at a time as it says, others draw all."""
    stages = tuple(
        replace(stage, keep=min(stage.keep, policy.of(count) if policy.restarts else count)) for stage in policy.stages
    )
    return Policy(stages, policy.drawn if policy.restarts else None)


def _check_budget(budget: float, cheapest: float, policy: Policy, least: int) -> None:
    if not cheapest <= budget < np.inf:
        raise NbenchError(
            f"a budget of {budget:g} calls is too small or not finite: {policy} with {least} candidates, or one image, "
            f"costs up to {cheapest:g}; raise it"
        )


def _at_budget(
    recorded: Recorded,
    policy: Policy,
    outcomes: Played,
    n: int,
    plain: int,
    budget: float,
    costs: Costs,
    affords: dict[str, int],
) -> Replay:
    steps, reference, final = recorded.steps, recorded.reference, recorded.final
    spent = mean_cost(outcomes)
    ways = {
        "policy": (n, spent, outcomes.picked),
        "random": (1, costs.one(steps), expected_best(reference, reference, 1)),
        "best-of-n": (plain, costs.best_of(plain, steps), expected_best(final, reference, plain)),
        "oracle": (n, spent, expected_best(reference, reference, n)),
    }
    return _report(recorded, policy, n, ways, costs.best_of(n, steps), outcomes.exact, budget, affords)


def estimates(ways: Array, marks: Array) -> list[dict[str, Estimate]]:
    """Figures of each way to select; ratios of means are bootstrapped as ratios, with the same draws for all ways.

    Args:
        ways: expected reference of each way's selection, float [P, W].
        marks: the same for a random pick, final-image selection and the oracle, float [P, 3].
    """
    picks = np.concatenate([ways, marks], axis=1)
    resamples = int(np.clip(_RESAMPLED_PROMPTS // max(len(picks), 1), 1000, 10_000))
    means = np.concatenate([mean_over_prompts(picks)[None], bootstrap_means(picks, resamples)])
    *selected, random, final, oracle = means.T
    return [
        {
            "selected": _estimate(values),
            "recovered_gain": _estimate(recovered_gain(values, random, final)),
            "oracle_gain": _estimate(recovered_gain(values, random, oracle)),
            "retention": _estimate(retention(values, final)),
        }
        for values in selected
    ]


def _estimate(values: Array) -> Estimate:
    """`values`: the figure itself, then its bootstrap draws."""
    draws = values[1:][np.isfinite(values[1:])]
    low, high = np.quantile(draws, [0.025, 0.975]) if draws.size else (np.nan, np.nan)
    return Estimate(float(values[0]), float(low), float(high))


def _usable(recorded: Recorded, policy: Policy, n: int) -> Recorded:
    """Without candidates that lack a score or a reference, so that all ways select among the same ones."""
    stages = policy.stages if policy.fixed else stages_of(policy, recorded.steps, keep=1)
    whole = recorded.at_positions([stage.position for stage in stages]).whole()
    most = int(np.isfinite(whole.reference).sum(-1).max(initial=0))
    if not 1 <= n <= most:
        raise NbenchError(f"cannot replay {n} candidates per prompt: {most} have all scores; take 1..{most}")
    return whole


def _most(cost: Callable[[int], float], least: int, budget: float) -> int:
    """The most candidates that the budget pays for."""
    if cost(least + 1) <= cost(least):
        raise NbenchError(
            "candidates cost nothing under this policy, as its first stage is at 0 and scores are free: move the stage "
            "or give --score-cost"
        )
    most, step = least, 1
    while cost(most + step) <= budget + _SLACK:
        most, step = most + step, 2 * step
    while step := step // 2:
        most += step * (cost(most + step) <= budget + _SLACK)
    return most


def _report(
    recorded: Recorded,
    policy: Policy,
    n: int,
    ways: dict[str, tuple[int, float, Array]],
    full: float,
    exact: bool,
    budget: float | None = None,
    affords: dict[str, int] | None = None,
) -> Replay:
    """`ways`: candidates drawn, calls, and selections of the policy, random, final-image selection and the oracle."""
    picks = np.stack([values for _, _, values in ways.values()])
    whole = np.isfinite(picks).all(0)  # the same prompts for each way
    figures = estimates(picks[:, whole].T, picks[1:, whole].T)
    rows = tuple(
        ReplayRow(way, drawn, calls, calls / full, **estimated, affords=(affords or {}).get(way, drawn))
        for (way, (drawn, calls, _)), estimated in zip(ways.items(), figures, strict=True)
    )
    return Replay(
        model=recorded.model,
        reference=recorded.reference_name,
        yardstick=recorded.yardstick,
        policy=str(calibrated(recorded, policy)),
        n=n,
        steps=recorded.steps,
        recorded=recorded.reference.shape[1],
        n_prompts=int(whole.sum()),
        left_out=int((~whole).sum()),
        exact=exact,
        rows=rows,
        budget=budget,
    )
