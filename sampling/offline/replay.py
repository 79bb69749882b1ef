"""Replays policies on recorded scores: what they select and cost, beside random, oracle and plain Best-of-N."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ...benchmarks.metrics import Array, mean_over_prompts, recovered_gain, retention
from ...benchmarks.metrics.statistics import bootstrap_means
from ...console import table_text
from ...errors import NbenchError
from ..policy import Policy
from ..waves import best, stages_of
from .config import Costs
from .expectation import expected_best, expected_selection, is_exact
from .recorded_scores import Recorded

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


def policy_picks(recorded: Recorded, policy: Policy, n: int) -> Array:
    """Expected reference of what `policy` selects from `n` candidates, float [P]; NaN where fewer are usable."""
    scores = [recorded.at(stage.position) for stage in policy.stages]
    return expected_selection(scores, [stage.keep for stage in policy.stages], recorded.reference, policy.of(n))


def selections(scores: Mapping[int, Array], policy: Policy, n: int, steps: int) -> list[int]:
    """The candidate per prompt that a live run of the first `n` selects, by scores [P, N] at each position.

    Raises:
        KeyError: there are no scores at a position where candidates are compared.
    """
    stages = stages_of(policy, steps, keep=1)
    selected = []
    for prompt in range(len(scores[stages[0].position])):
        living = list(range(policy.of(n)))
        for stage in stages:
            stage_scores = scores[stage.position][prompt]
            living = best({candidate: float(stage_scores[candidate]) for candidate in living})[: stage.keep]
        selected += living
    return selected


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
    ways = {
        "policy": (policy.of(n), costs.of(policy, n, steps), policy_picks(recorded, policy, n)),
        "random": (1, costs.one(steps), expected_best(recorded.reference, recorded.reference, 1)),
        "best-of-n": (n, full, expected_best(recorded.final, recorded.reference, n)),
        "oracle": (n, full, expected_best(recorded.reference, recorded.reference, n)),
    }
    return _report(recorded, policy, n, ways, full)


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
    policy = Policy(policy.stages)
    least = policy.stages[0].keep
    policy.check(max(n_recorded, least), steps)
    cheapest = max(costs.of(policy, least, steps), costs.best_of(1, steps))
    if not cheapest <= budget < np.inf:
        raise NbenchError(
            f"a budget of {budget:g} calls is too small or not finite: {policy} with {least} candidates, or one image, "
            f"costs up to {cheapest:g}; raise it"
        )
    affordable = _most(lambda count: costs.of(policy, count, steps), least, budget)
    plain_affordable = _most(lambda count: costs.best_of(count, steps), 1, budget)
    n, plain = (min(count, n_recorded) for count in (affordable, plain_affordable))
    recorded = _usable(recorded, policy, max(n, plain))
    reference, final = recorded.reference, recorded.final
    ways = {
        "policy": (n, costs.of(policy, n, steps), policy_picks(recorded, policy, n)),
        "random": (1, costs.one(steps), expected_best(reference, reference, 1)),
        "best-of-n": (plain, costs.best_of(plain, steps), expected_best(final, reference, plain)),
        "oracle": (n, costs.of(policy, n, steps), expected_best(reference, reference, n)),
    }
    affords = {"policy": affordable, "random": 1, "best-of-n": plain_affordable, "oracle": affordable}
    return _report(recorded, policy, n, ways, costs.best_of(n, steps), budget, affords)


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
    whole = recorded.at_positions([stage.position for stage in policy.stages]).whole()
    most = int(np.isfinite(whole.reference).sum(-1).max(initial=0))
    if not 1 <= n <= most:
        raise NbenchError(f"cannot replay {n} candidates per prompt: {most} have all scores; take 1..{most}")
    return whole


def _most(cost: Callable[[int], float], least: int, budget: float) -> int:
    """The most candidates that the budget pays for; each costs the same."""
    per_candidate = cost(least + 1) - cost(least)
    if per_candidate <= 0:
        raise NbenchError(
            "candidates cost nothing under this policy, as its first stage is at 0 and scores are free: move the stage "
            "or give --score-cost"
        )
    return least + int((budget - cost(least)) / per_candidate + 1e-9)


def _report(
    recorded: Recorded,
    policy: Policy,
    n: int,
    ways: dict[str, tuple[int, float, Array]],
    full: float,
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
        policy=str(policy),
        n=n,
        steps=recorded.steps,
        recorded=recorded.reference.shape[1],
        n_prompts=int(whole.sum()),
        left_out=int((~whole).sum()),
        exact=is_exact(list(recorded.scores.values()), policy.of(n), [stage.keep for stage in policy.stages]),
        rows=rows,
        budget=budget,
    )
