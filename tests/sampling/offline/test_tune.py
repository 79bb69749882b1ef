"""Tuning: the result is the best of all policies, budgets hold, held-out prompts are not used, files are read back."""

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
from nbench.sampling.offline.replay import policy_outcomes, replay
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
@pytest.mark.parametrize(
    ("n", "budget", "costs"), [(5, 0.5, Costs()), (4, 0.6, DEAR), (5, 1.0, DEAR), (4, 0.9, Costs(calls_per_score=3))]
)
def test_the_best_of_all_is_found(n: int, budget: float, costs: Costs, ties: bool) -> None:
    record = recorded(20, 5, POSITIONS, STEPS, ties)
    [tuned] = tune(record, TuneConfig(n, budget, 3, 2, costs))
    limit = budget * costs.best_of(n, STEPS)
    values = {
        policy: np.mean([slow_pick(record, policy, n, prompt) for prompt in range(20)])
        for policy in grid(n, 3)
        if costs.of(policy, n, STEPS) <= limit + 1e-9
    }
    best = max(values.values())
    equals = [policy for policy, value in values.items() if value > best - 1e-9]
    assert tuned.exhaustive
    assert tuned.met == len(values)
    assert tuned.policy in equals
    assert costs.of(tuned.policy, n, STEPS) == pytest.approx(min(costs.of(policy, n, STEPS) for policy in equals))
    assert tuned.in_sample.rows[0].selected.value == pytest.approx(best, abs=1e-12)
    assert tuned.in_sample.rows[0].calls <= limit + 1e-9


def test_where_scores_are_dear_fewer_candidates_are_drawn() -> None:
    record = recorded(40, 5, POSITIONS, STEPS, ties=False)
    [free] = tune(record, TuneConfig(5, 0.6, costs=Costs()))
    [dear] = tune(record, TuneConfig(5, 0.6, costs=Costs(score=5.0)))
    assert (free.policy.drawn, dear.policy.drawn) == (None, 3)
    assert dear.in_sample.n == 5
    policy_row, _, plain, oracle = dear.in_sample.rows
    assert (policy_row.seen, plain.seen, oracle.seen) == (3, 5, 5)
    slow = np.mean([slow_pick(record, dear.policy, 5, prompt) for prompt in range(40)])
    assert policy_row.selected.value == pytest.approx(slow, abs=1e-12)


def test_held_out_figures_are_of_policies_chosen_on_the_other_folds() -> None:
    record = recorded(40, 4, POSITIONS, STEPS, ties=False)
    [tuned] = tune(record, TuneConfig(4, 0.5, 2, 4))
    folds = np.random.default_rng(0).permutation(40) % 4
    affordable = [policy for policy in grid(4, 2) if policy.rows(4, STEPS) <= 20]
    picks = {policy: policy_outcomes(record, policy, 4, Costs()).picked for policy in affordable}
    held: Array = np.empty(40)
    for fold in range(4):
        best = max(affordable, key=lambda policy: picks[policy][folds != fold].sum())
        assert str(best) == tuned.fold_policies[fold]
        held[folds == fold] = picks[best][folds == fold]
    assert tuned.held_out["selected"].value == pytest.approx(held.mean(), abs=1e-12)


def test_noise_gains_in_sample_but_not_on_held_out_prompts() -> None:
    record = recorded(60, 6, range(11), STEPS, ties=False)
    rng = np.random.default_rng(5)
    noise = replace(record, scores={k: rng.random(record.reference.shape) for k in record.scores})
    [tuned] = tune(noise, TuneConfig(budget=0.6))
    gain = tuned.held_out["recovered_gain"]
    assert gain.low < 0 < gain.high
    assert tuned.in_sample.rows[0].recovered_gain.value > gain.value


def test_more_budget_is_never_worse() -> None:
    record = recorded(50, 6, range(11), STEPS, ties=False)
    results = tune(record, TuneConfig(budget=0.9), (0.05, 0.3, 0.5, 0.7))
    assert [tuned.budget for tuned in results] == [0.9, 0.3, 0.5, 0.7]  # one image alone is .17
    values = [tuned.in_sample.rows[0].selected.value for tuned in sorted(results, key=lambda tuned: tuned.budget)]
    assert values == sorted(values)
    for tuned in results:
        assert tuned.in_sample.rows[0].share <= tuned.budget + 1e-9
        [alone] = tune(record, TuneConfig(budget=tuned.budget))
        assert alone.policy == tuned.policy


def test_the_beam_comes_near_the_whole_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    record = recorded(60, 6, range(11), STEPS, ties=False)
    [whole] = tune(record, TuneConfig())
    monkeypatch.setattr(module, "_MAX_LOOKUPS", 0)
    [beam] = tune(record, TuneConfig())
    assert whole.exhaustive
    assert not beam.exhaustive
    assert beam.met < whole.met
    reached, best = (each.in_sample.rows[0].recovered_gain.value for each in (beam, whole))
    assert best - 0.03 < reached <= best
    assert beam.in_sample.rows[0].share <= 0.5
    costs = Costs(score=5.0)
    [few] = tune(record, TuneConfig(costs=costs))
    monkeypatch.setattr(module, "few_sets", lambda *_: False)
    [all_] = tune(record, TuneConfig(costs=costs))
    assert few.policy.drawn is not None
    assert all_.policy.drawn is None
    assert all_.in_sample.rows[0].selected.value < few.in_sample.rows[0].selected.value


def test_candidates_without_all_scores_are_left_out() -> None:
    record = recorded(30, 5, POSITIONS, STEPS, ties=False)
    record.scores[5][3, :2] = np.nan
    record.reference[4, 0] = np.nan
    [tuned] = tune(record, TuneConfig(4))
    assert tuned.in_sample.n_prompts == 29  # prompt 4 has four of five
    assert tuned.in_sample.rows[0].selected == replay(record.whole(), tuned.policy, 4).rows[0].selected


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (TuneConfig(1), "nothing to choose"),
        (TuneConfig(budget=0.0), "not a share"),
        (TuneConfig(budget=1.5), "not a share"),
        (TuneConfig(max_stages=0), "--max-stages 0 is out of range"),
        (TuneConfig(folds=1), "--folds 1 is out of range: give 2 or more"),
        (TuneConfig(7), "0 prompts have 7"),
        (TuneConfig(budget=0.1), "one image alone costs 0.167"),
    ],
)
def test_what_cannot_be_tuned_is_refused(config: TuneConfig, reason: str) -> None:
    with pytest.raises(NbenchError, match=reason):
        tune(recorded(30, 6, POSITIONS, STEPS, ties=False), config)


def test_the_command_writes_a_policy_that_replay_takes(tmp_path: Path) -> None:
    record: Recorded = recorded(30, 5, POSITIONS, STEPS, ties=False)
    paths = list(map(str, tables(tmp_path, record)))
    out = tmp_path / "policies/best.json"
    options = ["--n", "5", "--positions", "2,5,10", "--frontier", "--out", str(out), "--json"]
    printed = json.loads(CliRunner().invoke(app, ["tune", *paths, *options]).stdout)
    file = read_policy(out)
    assert (str(file.policy), file.n, file.steps, file.budget) == (printed["policy"], 5, STEPS, 0.5)
    assert {stage.position for stage in file.policy.stages} <= {2, 5, 10}
    assert file.expected["recovered_gain"] == printed["held_out"]["recovered_gain"]["value"]
    assert [tuned["budget"] for tuned in printed["frontier"]] == [
        0.25,
        0.3,
        0.35,
        0.4,
        0.6,
        0.7,
        0.8,
        0.9,
    ]  # 2 to 2: .24
    again = json.loads(CliRunner().invoke(app, ["replay", str(out), *paths, "--n", "5", "--json"]).stdout)
    assert again["rows"] == printed["in_sample"]["rows"]
    few = [*options, "--score-cost", "5"]
    printed = json.loads(CliRunner().invoke(app, ["tune", *paths, *few]).stdout)
    assert read_policy(out).drawn == int(printed["policy"].split(",")[0]) == printed["in_sample"]["rows"][0]["seen"] < 5
    replay_options = ["--n", "5", "--score-cost", "5", "--json"]
    for policy in (str(out), printed["policy"]):
        again = json.loads(CliRunner().invoke(app, ["replay", policy, *paths, *replay_options]).stdout)
        assert again["rows"] == printed["in_sample"]["rows"]
    shown = CliRunner().invoke(app, ["tune", *paths, "--n", "5"])
    assert shown.exit_code == 0
    assert "held-out" in shown.stdout


def test_no_stage_chooses_by_noise(tmp_path: Path) -> None:
    record = recorded(30, 4, (0, 5, 10), STEPS, ties=False)
    paths = list(map(str, tables(tmp_path, replace(record, scores={**record.scores, 0: record.reference}))))
    command = ["tune", *paths, "--n", "4", "--budget", "0.7", "--json"]
    assert json.loads(CliRunner().invoke(app, command).stdout)["policy"][:2] != "0:"
    assert json.loads(CliRunner().invoke(app, [*command, "--reads-x0"]).stdout)["policy"] == "0:1"
