"""Tuning: the policy found is the best of all, budgets hold, held-out prompts have no say, files are read back."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from nbench.benchmarks.metrics import Array
from nbench.cli import app
from nbench.errors import NbenchError
from nbench.sampling.offline import search as module
from nbench.sampling.offline.config import Costs, TuneConfig
from nbench.sampling.offline.recorded_scores import Recorded
from nbench.sampling.offline.replay import policy_picks, replay
from nbench.sampling.offline.tune import tune
from nbench.sampling.policy import Policy, Stage, read_policy

from ..conftest import recorded, slow_pick
from .test_replay import tables

STEPS, POSITIONS = 10, (0, 2, 5, 7, 10)
DEAR = Costs(score=0.4, decode=1.5, calls_per_score=1)


def grid(n: int, max_stages: int) -> list[Policy]:
    return [
        Policy(tuple(map(Stage, places, (*keeps[::-1], 1))), None if drawn == n else drawn)
        for drawn in range(2, n + 1)
        for many in range(1, max_stages + 1)
        for places in combinations(POSITIONS, many)
        for keeps in combinations(range(2, drawn), many - 1)
    ]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("n", "budget", "costs"), [(5, 0.5, Costs()), (4, 0.6, DEAR), (5, 1.0, DEAR)])
def test_the_best_of_all_is_found(n: int, budget: float, costs: Costs, ties: bool) -> None:
    made = recorded(20, 5, POSITIONS, STEPS, ties)
    [found] = tune(made, TuneConfig(n, budget, 3, 2, costs))
    limit = budget * costs.best_of(n, STEPS)
    values = {
        policy: np.mean([slow_pick(made, policy, n, prompt) for prompt in range(20)])
        for policy in grid(n, 3)
        if costs.of(policy, n, STEPS) <= limit + 1e-9
    }
    best = max(values.values())
    equals = [policy for policy, value in values.items() if value > best - 1e-9]
    assert found.exhaustive
    assert found.met == len(values)
    assert found.policy in equals
    assert costs.of(found.policy, n, STEPS) == pytest.approx(min(costs.of(policy, n, STEPS) for policy in equals))
    assert found.in_sample.rows[0].selected.value == pytest.approx(best, abs=1e-12)
    assert found.in_sample.rows[0].calls <= limit + 1e-9


def test_where_scores_are_dear_fewer_candidates_are_drawn() -> None:
    made = recorded(40, 5, POSITIONS, STEPS, ties=False)
    [free] = tune(made, TuneConfig(5, 0.6, costs=Costs()))
    [dear] = tune(made, TuneConfig(5, 0.6, costs=Costs(score=5.0)))
    assert (free.policy.drawn, dear.policy.drawn) == (None, 3)
    assert dear.in_sample.n == 5
    ours, _, plain, oracle = dear.in_sample.rows
    assert (ours.seen, plain.seen, oracle.seen) == (3, 5, 5)
    slow = np.mean([slow_pick(made, dear.policy, 5, prompt) for prompt in range(40)])
    assert ours.selected.value == pytest.approx(slow, abs=1e-12)


def test_held_out_figures_are_of_policies_chosen_on_the_other_folds() -> None:
    made = recorded(40, 4, POSITIONS, STEPS, ties=False)
    [found] = tune(made, TuneConfig(4, 0.5, 2, 4))
    folds = np.random.default_rng(0).permutation(40) % 4
    affordable = [policy for policy in grid(4, 2) if policy.rows(4, STEPS) <= 20]
    picks = {policy: policy_picks(made, policy, 4) for policy in affordable}
    held: Array = np.empty(40)
    for fold in range(4):
        best = max(affordable, key=lambda policy: picks[policy][folds != fold].sum())
        assert str(best) == found.fold_policies[fold]
        held[folds == fold] = picks[best][folds == fold]
    assert found.held_out["selected"].value == pytest.approx(held.mean(), abs=1e-12)


def test_noise_gains_in_sample_but_not_on_held_out_prompts() -> None:
    made = recorded(60, 6, range(11), STEPS, ties=False)
    rng = np.random.default_rng(5)
    noise = replace(made, scores={k: rng.random(made.reference.shape) for k in made.scores})
    [found] = tune(noise, TuneConfig(budget=0.6))
    gain = found.held_out["recovered_gain"]
    assert gain.low < 0 < gain.high
    assert found.in_sample.rows[0].recovered_gain.value > gain.value


def test_more_budget_is_never_worse() -> None:
    made = recorded(50, 6, range(11), STEPS, ties=False)
    found = tune(made, TuneConfig(budget=0.9), (0.05, 0.3, 0.5, 0.7))
    assert [one.budget for one in found] == [0.9, 0.3, 0.5, 0.7]  # one image alone is .17
    values = [one.in_sample.rows[0].selected.value for one in sorted(found, key=lambda one: one.budget)]
    assert values == sorted(values)
    for one in found:
        assert one.in_sample.rows[0].share <= one.budget + 1e-9
        [alone] = tune(made, TuneConfig(budget=one.budget))
        assert alone.policy == one.policy


def test_the_beam_comes_near_the_whole_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    made = recorded(60, 6, range(11), STEPS, ties=False)
    [whole] = tune(made, TuneConfig())
    monkeypatch.setattr(module, "_EXHAUSTIVE_CELLS", 0)
    [beam] = tune(made, TuneConfig())
    assert whole.exhaustive
    assert not beam.exhaustive
    assert beam.met < whole.met
    reached, best = (one.in_sample.rows[0].recovered_gain.value for one in (beam, whole))
    assert best - 0.03 < reached <= best
    assert beam.in_sample.rows[0].share <= 0.5
    costs = Costs(score=5.0)
    [few] = tune(made, TuneConfig(costs=costs))
    monkeypatch.setattr(module, "few_sets", lambda *_: False)
    [all_] = tune(made, TuneConfig(costs=costs))
    assert few.policy.drawn is not None
    assert all_.policy.drawn is None
    assert all_.in_sample.rows[0].selected.value < few.in_sample.rows[0].selected.value


def test_candidates_without_all_scores_are_left_out() -> None:
    made = recorded(30, 5, POSITIONS, STEPS, ties=False)
    made.scores[5][3, :2] = np.nan
    made.reference[4, 0] = np.nan
    [found] = tune(made, TuneConfig(4))
    assert found.in_sample.n_prompts == 29  # prompt 4 has four of five
    assert found.in_sample.rows[0].selected == replay(made.whole(), found.policy, 4).rows[0].selected


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (TuneConfig(1), "nothing to choose"),
        (TuneConfig(budget=0.0), "not a share"),
        (TuneConfig(budget=1.5), "not a share"),
        (TuneConfig(max_stages=0), "a stage at least"),
        (TuneConfig(folds=1), "two folds"),
        (TuneConfig(7), "0 prompts have 7"),
        (TuneConfig(budget=0.1), "one image alone is 0.167"),
    ],
)
def test_what_cannot_be_tuned_is_refused(config: TuneConfig, reason: str) -> None:
    with pytest.raises(NbenchError, match=reason):
        tune(recorded(30, 6, POSITIONS, STEPS, ties=False), config)


def test_the_command_writes_a_policy_that_replay_takes(tmp_path: Path) -> None:
    made: Recorded = recorded(30, 5, POSITIONS, STEPS, ties=False)
    paths = list(map(str, tables(tmp_path, made)))
    out = tmp_path / "policies/best.json"
    options = ["--n", "5", "--positions", "2,5,10", "--frontier", "--out", str(out), "--json"]
    told = json.loads(CliRunner().invoke(app, ["tune", *paths, *options]).stdout)
    file = read_policy(out)
    assert (str(file.policy), file.n, file.steps, file.budget) == (told["policy"], 5, STEPS, 0.5)
    assert {stage.position for stage in file.policy.stages} <= {2, 5, 10}
    assert file.expected["recovered_gain"] == told["held_out"]["recovered_gain"]["value"]
    assert [one["budget"] for one in told["frontier"]] == [0.25, 0.3, 0.35, 0.4, 0.6, 0.7, 0.8, 0.9]  # 2 to 2: .24
    again = json.loads(CliRunner().invoke(app, ["replay", str(out), *paths, "--n", "5", "--json"]).stdout)
    assert again["rows"] == told["in_sample"]["rows"]
    few = [*options, "--score-cost", "5"]
    told = json.loads(CliRunner().invoke(app, ["tune", *paths, *few]).stdout)
    assert read_policy(out).drawn == int(told["policy"].split(",")[0]) == told["in_sample"]["rows"][0]["seen"] < 5
    given = ["--n", "5", "--score-cost", "5", "--json"]
    for policy in (str(out), told["policy"]):
        again = json.loads(CliRunner().invoke(app, ["replay", policy, *paths, *given]).stdout)
        assert again["rows"] == told["in_sample"]["rows"]
    shown = CliRunner().invoke(app, ["tune", *paths, "--n", "5"])
    assert shown.exit_code == 0
    assert "held-out" in shown.stdout


def test_no_stage_chooses_by_noise(tmp_path: Path) -> None:
    found = recorded(30, 4, (0, 5, 10), STEPS, ties=False)
    paths = list(map(str, tables(tmp_path, replace(found, scores={**found.scores, 0: found.reference}))))
    command = ["tune", *paths, "--n", "4", "--budget", "0.7", "--json"]
    assert json.loads(CliRunner().invoke(app, command).stdout)["policy"][:2] != "0:"
    assert json.loads(CliRunner().invoke(app, [*command, "--reads-x0"]).stdout)["policy"] == "0:1"
