"""Policies that look at scores: played at once they do what `Waves` does run by run, and chances are calibrated."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.optimize import minimize
from typer.testing import CliRunner

from nbench.cli import app
from nbench.errors import NbenchError
from nbench.sampling.offline.calibration import calibrated, fit, held_out_weights
from nbench.sampling.offline.config import Costs, TuneConfig
from nbench.sampling.offline.outcomes import play
from nbench.sampling.offline.recorded_scores import Recorded
from nbench.sampling.offline.replay import policy_outcomes, replay, replay_budget
from nbench.sampling.offline.tune import tune
from nbench.sampling.policy import parse_policy, read_policy
from nbench.sampling.waves import Rules, Waves, stages_of

from ..conftest import recorded

STEPS, POSITIONS = 10, (2, 5, 8, 10)
ADAPTIVE = [
    "2:5p.15w2,5:1",
    "2:5p.1w2,5:4p.2w1+3,8:1",
    "4,2:4p.2w2,8:2p.3w1+2",
    "1,5:1r.6",
    "1,5:1r.99",
    "2,2:2r.9,5:2r.95,8:1",
    "2,2:1r.4,8:1r.9",
    "2,2:2p.45w3r.2,5:1",
]


def run_by_hand(record: Recorded, text: str, prompt: int, order: tuple[int, ...], costs: Costs) -> tuple[int, float]:
    """The candidate that `Waves` selects, stepping as a pipeline does, and its cost."""
    policy, n = parse_policy(text), len(order)
    stages = stages_of(policy, STEPS, 1)
    most = n if policy.restarts else None
    waves = Waves(Rules(stages, STEPS, policy.of(n), calls_per_score=costs.calls_per_score, most=most))
    cost, at = 0.0, [set[int]() for _ in stages]
    while numbers := waves.next():
        living, done = list(numbers), 0
        if waves.recalled:  # from where they stopped: the furthest stage that all of these scored at
            done = max(number for number, stage in enumerate(stages) if all(each in at[number] for each in living)) + 1
        dues = [min(stage.position + (costs.calls_per_score > 0), STEPS) for stage in stages]
        for position in range(dues[done - 1] if done else 0, STEPS + 1):
            for index, stage in enumerate(stages):
                if index >= done and dues[index] == position and living and waves.undecided(index, living):
                    at[index].update(living)
                    beside = max(0, min(costs.calls_per_score, STEPS - stage.position) - 1)
                    cost += (costs.score + beside) * len(living)
                    values = record.scores[stage.position][prompt]
                    living = waves.decide(index, {number: float(values[order[number]]) for number in living})
            cost += len(living) * (position < STEPS)
        cost += costs.decode * len(living)
    return order[waves.selected()[0]], cost


@pytest.mark.parametrize("text", ADAPTIVE)
@pytest.mark.parametrize(("ties", "calls"), [(False, 1), (True, 1), (False, 3)])
def test_all_runs_at_once_are_each_run_by_itself(text: str, ties: bool, calls: int) -> None:
    record, costs = recorded(4, 5, POSITIONS, STEPS, ties), Costs(score=0.25, decode=2.5, calls_per_score=calls)
    outcomes = play(record.scores, record.reference, parse_policy(text), 5, costs, STEPS)
    assert outcomes.exact
    for prompt in range(4):
        runs = [run_by_hand(record, text, prompt, order, costs) for order in permutations(range(5))]
        chosen = np.mean([record.reference[prompt, candidate] for candidate, _ in runs])
        assert outcomes.picked[prompt] == pytest.approx(chosen, abs=1e-12)
        assert outcomes.cost[prompt] == pytest.approx(np.mean([cost for _, cost in runs]), abs=1e-9)


def test_without_recall_the_last_wave_goes_on() -> None:
    record, policy = recorded(4, 5, POSITIONS, STEPS, ties=False), parse_policy("1,5:1r99")
    outcomes = play(record.scores, record.reference, policy, 5, Costs(), STEPS, recall=False)
    np.testing.assert_allclose(outcomes.picked, record.reference.mean(1))
    recalled = play(record.scores, record.reference, policy, 5, Costs(), STEPS)
    np.testing.assert_array_equal(recalled.cost, outcomes.cost)
    best = record.scores[5].argmax(1)
    np.testing.assert_allclose(recalled.picked, record.reference[np.arange(4), best])


def test_candidates_that_cannot_be_used_are_in_no_run() -> None:
    record = recorded(3, 5, POSITIONS, STEPS, ties=False)
    record.scores[5][1, 2] = np.nan
    outcomes = play(record.scores, record.reference, parse_policy("1,5:1r.6"), 4, Costs(), STEPS)
    runs = [run_by_hand(record, "1,5:1r.6", 1, order, Costs()) for order in permutations((0, 1, 3, 4))]
    assert outcomes.cost[1] == pytest.approx(np.mean([cost for _, cost in runs]))
    record.scores[5][1, 3] = np.nan
    outcomes = play(record.scores, record.reference, parse_policy("1,5:1r.6"), 4, Costs(), STEPS)
    assert np.isfinite(outcomes.picked).tolist() == [True, False, True]


def test_many_candidates_are_drawn_with_a_seed_near_the_expectation() -> None:
    record = recorded(50, 9, POSITIONS, STEPS, ties=False)
    policy = parse_policy("1,5:1r.6")
    first, again = (play(record.scores, record.reference, policy, 5, Costs(), STEPS) for _ in range(2))
    assert not first.exact
    np.testing.assert_array_equal(first.picked, again.picked)
    five = [record.of(np.arange(50))._map(lambda values: values[:, :5]), record._map(lambda values: values[:, 4:])]
    exact = np.mean([play(each.scores, each.reference, policy, 5, Costs(), STEPS).cost.mean() for each in five])
    assert first.cost.mean() == pytest.approx(exact, rel=0.1)


def test_weights_are_the_most_likely_ones() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4000, 6, 2))
    truth = np.array([0.7, 2.0])
    noisy = features @ truth + rng.gumbel(size=(4000, 6))  # the best of such sums is a conditional logit
    best = noisy == noisy.max(-1, keepdims=True)

    def loss(weights: np.ndarray) -> float:
        merit = features @ weights
        return float(-(merit[best] - np.log(np.exp(merit).sum(-1))).mean() + 0.5e-3 * (weights**2).sum())

    weights = fit(features, best.astype(float))
    np.testing.assert_allclose(weights, minimize(loss, np.zeros(2)).x, rtol=2e-2)
    np.testing.assert_allclose(weights, truth, atol=0.1)


def test_chances_of_held_out_prompts_come_true() -> None:
    record = recorded(3000, 6, POSITIONS, STEPS, ties=False)
    weights = held_out_weights(record, parse_policy("2:6p.1,5:6p.1,8:1"))
    assert sorted(weights) == [2, 5]
    features = np.stack([record.scores[2], record.scores[5]], -1)
    odds = np.exp((features * weights[5][:, None]).sum(-1))
    chance = odds / odds.sum(-1, keepdims=True)
    best = record.reference == record.reference.max(-1, keepdims=True)
    for low, high in ((0, 0.1), (0.1, 0.2), (0.2, 0.4), (0.4, 0.7)):
        within = (low <= chance) & (chance < high)
        assert best[within].mean() == pytest.approx(chance[within].mean(), abs=0.06)


def test_replay_calibrates_and_says_how(tmp_path: Path) -> None:
    record = recorded(200, 5, POSITIONS, STEPS, ties=False)
    replayed = replay(record, parse_policy("2:5p.1,5:1"), 5)
    policy = calibrated(record, parse_policy("2:5p.1,5:1"))
    assert parse_policy(replayed.policy) == policy
    fixed, raced = replay(record, parse_policy("5:1"), 5).rows[0], replayed.rows[0]
    assert raced.calls < fixed.calls
    outcomes = policy_outcomes(record, policy, 5, Costs())
    assert raced.calls == pytest.approx(outcomes.cost.mean(), rel=0.02)  # weights of other folds, near those of all


def test_a_budget_holds_on_average() -> None:
    record = recorded(60, 6, POSITIONS, STEPS, ties=False)
    for text in ("1,5:1r.7", "2:6p.15w2,5:1"):
        row = replay_budget(record, parse_policy(text), 24, Costs()).rows[0]
        assert row.calls <= 24
        more = parse_policy(text.replace("6p", f"{row.seen + 1}p"))
        assert row.seen == 6 or replay(record, more, row.seen + 1).rows[0].calls > 24
    with pytest.raises(NbenchError, match="raise it"):
        replay_budget(record, parse_policy("2:6p.15w2,5:1"), 10.5, Costs())


def test_recorded_trajectories_cannot_branch() -> None:
    with pytest.raises(NbenchError, match="which recorded trajectories cannot"):
        replay(recorded(10, 4, POSITIONS, STEPS, ties=False), parse_policy("2:4s3,5:1"), 4)


def test_tune_finds_the_policy_that_pays() -> None:
    """Half of the prompts have equal candidates: only a policy that looks at scores saves calls there alone."""
    rng = np.random.default_rng(0)
    reference = rng.random((120, 4)) * np.where(np.arange(120) % 2, 1.0, 1e-6)[:, None] + 0.5
    reference[::2] += 1
    scores = {k: reference + rng.normal(0, 1e-3, reference.shape) for k in (4, 6)}
    record = Recorded("made", scores, reference, "truth", reference, "clip", STEPS)
    config = TuneConfig(n=4, budget=0.42, max_stages=1)
    fixed, adaptive = (tune(record, replace(config, adaptive=each))[0] for each in (False, True))
    assert fixed.policy.fixed
    assert adaptive.policy.restarts
    assert adaptive.held_out["selected"].value > fixed.held_out["selected"].value
    assert adaptive.held_out_share <= 0.45
    assert adaptive.met > fixed.met


def test_from_the_command_line(tmp_path: Path) -> None:
    record = recorded(60, 4, POSITIONS, STEPS, ties=False)
    ids = [(f"p{p}", c) for p in range(60) for c in range(4)]
    names, numbers = [name for name, _ in ids], [number for _, number in ids]
    tables = [
        pa.table({"prompt_id": names, "candidate": numbers, "position": [k] * 240, "score": values.ravel()})
        for k, values in record.scores.items()
    ]
    pq.write_table(pa.concat_tables(tables), tmp_path / "scores.parquet")
    truth = pa.table({"prompt_id": names, "candidate": numbers, "score": record.reference.ravel()})
    pq.write_table(truth, tmp_path / "truth.parquet")
    where = [str(tmp_path / "scores.parquet"), str(tmp_path / "truth.parquet"), "--n", "4", "--json"]

    out = str(tmp_path / "race.json")
    shown = CliRunner().invoke(app, ["replay", "2:4p.2,5:1", *where, "--out", out])
    assert shown.exit_code == 0, shown.output
    told = json.loads(shown.stdout)
    assert str(read_policy(Path(out)).policy) == told["policy"]
    again = json.loads(CliRunner().invoke(app, ["replay", out, *where]).stdout)
    assert again["policy"] == told["policy"]

    found = CliRunner().invoke(app, ["tune", *where, "--adaptive", "--budget", "0.5", "--out", out])
    assert found.exit_code == 0, found.output
    assert parse_policy(out) == parse_policy(json.loads(found.stdout)["policy"])
