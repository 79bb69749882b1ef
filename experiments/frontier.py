"""How much of the gain is kept at which cost: ways to stop, tuned within a budget and measured on held-out prompts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..benchmarks.metrics import Array
from ..builders.spec import call_arguments, maker_of
from ..pipelines.find import load_pipeline
from ..sampling.offline.calibration import folds_of, held_out_weights
from ..sampling.offline.config import Costs
from ..sampling.offline.cost_file import read_costs, write_costs
from ..sampling.offline.expectation import expected_best
from ..sampling.offline.measure import measure
from ..sampling.offline.outcomes import play
from ..sampling.offline.races import played_all, races, restarts
from ..sampling.offline.recorded_scores import Recorded
from ..sampling.offline.replay import Estimate, estimates, policy_outcomes
from ..sampling.offline.search import Problem, search
from ..sampling.policy import Policy, parse_policy
from ..scorers.protocols import calls_per_score, has_input
from ..scorers.registry import get_scorer
from ..shards.reader import open_bench
from .data import Data
from .measure import YARDSTICK, references, score

SHARES = (0.17, 0.2, 0.22, 0.25, 0.3, 0.35, 0.5)
"""Budgets, of the cost of full Best-of-6: all candidates are finished, decoded and scored by CLIP."""
TUNED_BY = "vqascore"
JUDGES = (TUNED_BY, "truth")
FOLDS, STAGES, AT_ONCE = 5, 3, 20
SCORERS = {"noisyclip": "noisyclip", "noisyclip-t": "noisyclip-t", "x0-clip": "x0-clip", "x0-vqa": None}
"""By row; None: the x0-vqa model that the experiment trains."""
ORACLE_PLACES = (1, 2, 3, 4, 6, 8, 10, 15, 20)


@dataclass(frozen=True)
class Way:
    """A family of policies by one scorer; `policies`: of a problem, None: all fixed ones; `latest`: position."""

    row: str
    scorer: str
    policies: Callable[[Problem], Iterable[Policy]] | None = None
    latest: int | None = None


def _few(stage: str) -> Callable[[Problem], Iterable[Policy]]:
    """One fixed stage, of as many candidates as the budget pays for."""
    return lambda problem: [parse_policy(f"{drawn},{stage}") for drawn in range(2, problem.n + 1)]


def ways_of(scorers: Sequence[str]) -> list[Way]:
    """The rows of the experiment."""
    best = "x0-vqa" if "x0-vqa" in scorers else scorers[-1]
    return [
        *(Way(f"fixed keeps, {name}", name) for name in scorers),
        Way(f"race, {best}", best, races, 16),
        *(Way(f"restart below a threshold (2512.08985), {name}", name, restarts, 16) for name in scorers),
        Way(f"one cut at 20 % of the run (2603.02829), {best}", best, _few("10:1")),
        Way("the paper's 20:1, noisyclip", "noisyclip", _few("20:1")),
    ]


def run_frontier(work: Path, results: Path, more: Sequence[str] = ()) -> None:
    """Score what is not scored yet, and write `results`.

    more: further scorers, as `nbench evaluate --model` takes them, with fixed keeps.
    """
    data = Data(work)
    bench = data("bench")
    judges = references(bench)
    models = SCORERS | {name: name for name in more}
    recorded, costs = {}, {}
    for name, model in models.items():
        spec = model or f"x0-preview:vqascore:{data('x0vqa')}"
        recorded[name] = _recorded(work, bench, name, spec, judges)
        costs[name] = _costs(work, bench, name, spec)
        print(f"frontier: {name} is scored", flush=True)
    # full Best-of-6 is the same for all, and so is a decode
    clip = _costs(work, bench, "clip", "image:clip")
    full = clip.best_of(6, recorded["noisyclip"].steps)
    costs = {name: replace(each, decode=clip.decode) for name, each in costs.items()}
    rows = []
    for way in ways_of([*models]):
        table = recorded[way.scorer]
        table = table.at_positions([place for place in table.scores if place <= (way.latest or table.steps)])
        cells = frontier(table, judges, costs[way.scorer], full, way.policies)
        rows.append({"row": way.row, "cells": cells})
        print(f"frontier: {way.row}", flush=True)
    rows.append({"row": "plain Best-of-n", "cells": plain_cells(judges)})
    content = {
        "prompts": len(judges[YARDSTICK]),
        "candidates": judges[YARDSTICK].shape[1],
        "score_costs": {name: round(each.score, 3) for name, each in costs.items()},
        "decode_cost": round(clip.decode, 3),
        "rows": rows,
        "oracle": oracle_rows(judges, costs["noisyclip"], full, recorded["noisyclip"].steps),
    }
    results.mkdir(exist_ok=True)
    (results / "frontier.json").write_text(json.dumps(content, indent=1) + "\n")


def frontier(
    recorded: Recorded,
    judges: dict[str, Array],
    costs: Costs,
    full: float,
    policies: Callable[[Problem], Iterable[Policy]] | None = None,
) -> list[dict[str, Any]]:
    """A cell per budget and judge: the gain of policies chosen on other folds, by the recorded reference.

    Budgets that no policy fits have no cell.

    Args:
        full: cost of full Best-of-n, in denoiser calls.
        policies: the family; None: all fixed policies.
    """
    folds = folds_of(len(recorded.reference), FOLDS)
    n, limit = recorded.reference.shape[1], max(SHARES) * full
    problem = Problem(recorded.scores, recorded.reference, folds, n, recorded.steps, STAGES, limit, costs)
    fixed = search(problem) if policies is None else None
    adaptive = None if policies is None else played_all(policies(problem), problem, recorded)
    cells = []
    for share in SHARES:
        picked = {judge: np.full(len(folds), np.nan) for judge in JUDGES}
        cost, chosen = np.full(len(folds), np.nan), []
        for fold in range(FOLDS):
            others = [other for other in range(FOLDS) if other != fold]
            if fixed is not None:
                policy = fixed.best(others, share * full) if fixed.costs else None
            else:
                assert adaptive is not None
                best = adaptive.best(folds != fold, share * full)
                policy = None if best is None else best[0]
            if policy is None:
                break
            chosen.append(str(policy))
            for judge in JUDGES:
                outcomes = _held_out(replace(recorded, reference=judges[judge]), recorded, policy, n, costs, folds)
                picked[judge][folds == fold] = outcomes[0][folds == fold]
                cost[folds == fold] = outcomes[1][folds == fold]
        if len(chosen) == FOLDS:
            policies_chosen = sorted(set(chosen), key=chosen.count, reverse=True)
            for judge in JUDGES:
                gain = _gain(picked[judge], judges[judge], judges[YARDSTICK])
                cells.append(_cell(share, judge, gain, float(cost.mean() / full)) | {"policies": policies_chosen})
    return cells


def _held_out(
    judged: Recorded, recorded: Recorded, policy: Policy, n: int, costs: Costs, folds: np.ndarray
) -> tuple[Array, Array]:
    """What `policy` selects, by the judge, and its cost; its chances are calibrated by the recorded reference."""
    if policy.fixed:
        outcomes = policy_outcomes(judged, policy, n, costs)
    else:
        weights = held_out_weights(recorded, policy, folds)
        outcomes = play(judged.scores, judged.reference, policy, n, costs, judged.steps, weights)
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


def oracle_rows(judges: dict[str, Array], costs: Costs, full: float, steps: int) -> list[dict[str, Any]]:
    """By position: the gain of one that sees the final score and keeps the best of m there, m as the budget allows."""
    n = judges[YARDSTICK].shape[1]
    free = replace(costs, score=0.0, calls_per_score=0)
    rows = []
    for place in ORACLE_PLACES:
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


def _recorded(work: Path, bench: Path, name: str, model: str, judges: dict[str, Array]) -> Recorded:
    """The scores of a model at all positions before T, kept in a file."""
    file = work / "scores" / "frontier" / f"{_slug(name)}.npz"
    opened = open_bench(bench)
    info = opened.info
    reads = get_scorer(model, info).reads
    if not file.is_file():
        recorded_at = [position.position for position in info.positions if position.position < info.steps]
        positions = [k for k in recorded_at if has_input(reads, k, info.steps) and (k or calls_per_score(reads))]
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, scores=score(bench, model, positions), positions=positions)
    table = dict(np.load(file))
    scores = {int(k): values for k, values in zip(table["positions"], table["scores"], strict=True)}
    judge, final = judges[TUNED_BY], judges[YARDSTICK]
    return Recorded(name, scores, judge, TUNED_BY, final, YARDSTICK, info.steps, calls_per_score=calls_per_score(reads))


def _costs(work: Path, bench: Path, name: str, model: str) -> Costs:
    """In denoiser calls, with scores and decodes by their seconds in full batches of 20 prompts, measured once and kept
    in a file."""
    file = work / "costs" / f"{_slug(name)}.json"
    opened = open_bench(bench)
    scorer = get_scorer(model, opened.info)
    if not file.is_file():
        info, prompts = opened.info, [prompt.prompt for prompt in opened.prompts[:AT_ONCE]]
        pipe = load_pipeline(maker_of(info.spec), info.spec["dtype"])
        file.parent.mkdir(parents=True, exist_ok=True)
        write_costs(file, measure(pipe, call_arguments(info.spec), scorer, prompts, info.candidates, info.preview))
    seconds = read_costs(file)
    step = seconds.step_seconds[-1]
    return Costs(seconds.score_seconds[-1] / step, seconds.decode_seconds[-1] / step, calls_per_score(scorer.reads))


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)
