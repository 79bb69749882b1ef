"""What policies that look at scores select and cost on recorded scores: every run is played, all runs at once.

A run is an order of the recorded candidates: the first ones are drawn, and of equal ones the first drawn is kept, as
live. Arrays are float [P, N] (P prompts, N candidates), NaN where a candidate cannot be used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from math import perm

import numpy as np
from numpy.typing import NDArray

from ...benchmarks.metrics import Array
from ...shards.signals import extra_calls
from ..policy import Policy, Stage
from ..waves import stages_of
from .config import Costs
from .expectation import few_sets, sets

Indices = NDArray[np.intp]

_MOST_ORDERS, _DRAWS = 720, 256
_CHUNK_CELLS = 4_000_000


@dataclass(frozen=True)
class Played:
    """Expected reference and cost per prompt, float [P], NaN where too few candidates can be used.

    exact: over all runs, not over 256 draws with a fixed seed.
    """

    picked: Array
    cost: Array
    exact: bool


def play(
    scores: Mapping[int, Array],
    reference: Array,
    policy: Policy,
    n: int,
    costs: Costs,
    steps: int,
    weights: Mapping[int, Array] | None = None,
    most_orders: int = _MOST_ORDERS,
    recall: bool = True,
) -> Played:
    """Play `policy` with every run of `n` of the recorded candidates, each as likely as the others.

    Args:
        weights: by position, those of each prompt in place of the stage's own: float [P, J].
        most_orders: where the order matters and there are more, some are drawn.
        recall: whether the best of all goes on if no wave is good enough; else the last wave does.
    """
    policy = Policy(stages_of(policy, steps, keep=1), policy.drawn)
    places = [stage.position for stage in policy.stages]
    usable = np.isfinite(reference) & np.logical_and.reduce([np.isfinite(scores[place]) for place in places])
    runs, exact = _runs([scores[place] for place in places], policy, n, most_orders)
    picked, cost = np.full(len(reference), np.nan), np.full(len(reference), np.nan)
    chunk = max(1, _CHUNK_CELLS // runs.size)
    for start in range(0, len(reference), chunk):
        part = slice(start, start + chunk)
        own = {place: each[part] for place, each in (weights or {}).items()}
        chosen, spent = played(
            {place: scores[place][part] for place in places}, policy, runs, costs, steps, own, recall
        )
        fits = usable[part][:, runs].all(-1)
        share = np.divide(1.0, fits.sum(-1), out=np.full(len(fits), np.nan), where=fits.any(-1))
        references = np.take_along_axis(np.nan_to_num(reference[part]), chosen, -1)
        picked[part], cost[part] = (references * fits).sum(-1) * share, (spent * fits).sum(-1) * share
    return Played(picked, cost, exact)


def _runs(scores: Sequence[Array], policy: Policy, n: int, most_orders: int) -> tuple[Indices, bool]:
    """Candidates in the order drawn, [D, n]: all orders, or all sets where the order does not matter, or draws."""
    n_candidates = scores[0].shape[1]
    drawn = n if policy.restarts else policy.of(n)
    ordered = policy.restarts or any((np.diff(np.sort(values, axis=-1)) == 0).any() for values in scores)
    if not ordered and few_sets(n_candidates, drawn, ()):
        return sets(n_candidates, drawn), True
    if perm(n_candidates, drawn) <= most_orders:
        return np.array(list(permutations(range(n_candidates), drawn)), np.intp), True
    rng = np.random.default_rng(0)
    return np.argsort(rng.random((min(_DRAWS, most_orders), n_candidates)), axis=-1)[:, :drawn], False


def played(
    scores: Mapping[int, Array],
    policy: Policy,
    runs: Indices,
    costs: Costs,
    steps: int,
    weights: Mapping[int, Array] | None = None,
    recall: bool = True,
) -> tuple[Indices, Array]:
    """The selected candidate and the cost of each prompt and run, [P, D] each; the last stage keeps 1.

    runs: candidates in the order drawn, [D, n].
    """
    size = policy.of(runs.shape[1])
    shape = (len(next(iter(scores.values()))), len(runs))
    chosen, cost, running = np.zeros(shape, np.intp), np.zeros(shape), np.ones(shape, bool)
    restarting = [index for index, stage in enumerate(policy.stages) if stage.restart is not None]
    short = {index: np.full((*shape, runs.shape[1]), -np.inf) for index in restarting}  # of waves that fell short there

    def run(alive: NDArray[np.bool_], columns: Indices, wave: slice, first: int = 0) -> None:
        """Run the `alive` of `columns` from stage `first` on."""
        nonlocal running
        done = _due(policy.stages[first - 1], costs, steps) if first else 0
        seen = [np.nan_to_num(scores[stage.position][:, columns], nan=-np.inf) for stage in policy.stages]
        for index, stage in list(enumerate(policy.stages))[first:]:
            due = _due(stage, costs, steps)
            ahead = extra_calls(costs.calls_per_score, stage.position, steps)
            count = alive.sum(-1)
            # one that is left alone by chance is not scored again
            undecided = (count > 1) | (stage.restart is not None) | (not policy.by_chance)
            cost[:] += costs.steps(count) * (due - done) + np.where(
                undecided, costs.scores(count) + costs.steps(count) * ahead, 0.0
            )
            done = due
            merits = np.where(alive, _merit(stage, seen[: index + 1], weights), -np.inf)
            redrawn = recall or wave.stop + size <= runs.shape[1]
            if stage.restart is not None and not first and redrawn:
                low = np.where(alive, seen[index], -np.inf).max(-1, keepdims=True) < stage.restart
                short[index][..., wave] = np.where(low, merits, -np.inf)
                merits = np.where(low, -np.inf, merits)
            alive = _continues(stage, merits)
        count, ended = alive.sum(-1), alive.any(-1)
        cost[:] += costs.steps(count) * (steps - done) + costs.decodes(count)
        chosen[:] = np.where(ended, columns[np.arange(len(runs)), alive.argmax(-1)], chosen)
        running &= ~ended

    for number in range(runs.shape[1] // size if policy.restarts else 1):
        wave = slice(number * size, (number + 1) * size)
        run(np.repeat(running[..., None], size, -1), runs[:, wave], wave)
    for index in reversed(restarting if recall else []):  # no wave was good enough: the best that came furthest go on
        short_here = np.where(running[..., None], short[index], -np.inf)
        run(_continues(policy.stages[index], short_here), runs, slice(None), index + 1)
    return chosen, cost


def _due(stage: Stage, costs: Costs, steps: int) -> int:
    """The position at which candidates leave a stage: a step later if its scores need that step."""
    return min(stage.position + min(costs.calls_per_score, 1), steps)


def _merit(stage: Stage, seen: Sequence[Array], weights: Mapping[int, Array] | None) -> Array:
    """What candidates are compared by, as `waves.merit`: [P, D, drawn]."""
    own = (weights or {}).get(stage.position, np.array(stage.weights)[None])
    if not own.shape[1]:
        return seen[-1]
    latest = zip(reversed(own.T), reversed(seen), strict=False)
    return np.asarray(sum(weight[:, None, None] * values for weight, values in latest))


def _continues(stage: Stage, merit: Array) -> NDArray[np.bool_]:
    """Which of the living continue, [P, D, drawn]; merit: -inf for all others."""
    order = np.argsort(-merit, axis=-1, kind="stable")
    rank = np.argsort(order, axis=-1)
    kept = rank < stage.keep
    if stage.chance is not None:
        top = merit.max(-1, keepdims=True)
        odds = np.exp(merit - np.where(np.isfinite(top), top, 0.0))
        likely = (odds >= stage.chance * odds.sum(-1, keepdims=True)).sum(-1, keepdims=True)
        kept &= rank < np.maximum(likely, 1)
    return kept & np.isfinite(merit)
