"""Measured costs: the file, the look-up, and what tune and replay make of it, counted stage by stage."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from nbench.cli import app
from nbench.errors import NbenchError
from nbench.sampling.offline.config import CostOptions, Costs
from nbench.sampling.offline.cost_file import CostFile, read_costs, write_costs
from nbench.sampling.offline.measure import measure
from nbench.sampling.offline.replay import foretold, replay, replay_budget
from nbench.sampling.policy import parse_policy

from ..conftest import recorded
from ..live import Mean, opened, plain, state

STEPS = 10
FILE = CostFile(
    model="made",
    pipeline="P",
    device="cpu",
    threads=1,
    prompts=2,
    step_seconds=[0.4, 0.5, 0.6, 0.8],  # a batch of one takes half of the time of four
    score_seconds=[0.1, 0.1, 0.2, 0.2],
    decode_seconds=[0.05, 0.1, 0.15, 0.2],
)
CALL = 0.2


@pytest.mark.parametrize("policy", ["3:2,6:1", "3,3:2,6:1", "10:1"])
def test_a_policy_costs_the_seconds_of_its_batches(policy: str) -> None:
    alive, done, seconds = parse_policy(policy).of(4), 0, 0.0
    for stage in parse_policy(policy).stages:
        due = min(stage.position + 1, STEPS)
        seconds += FILE.step_seconds[alive - 1] * (due - done) + FILE.score_seconds[alive - 1]
        done, alive = due, stage.keep
    seconds += FILE.step_seconds[alive - 1] * (STEPS - done) + FILE.decode_seconds[alive - 1]
    costs = FILE.costs(calls_per_score=1)
    assert costs.of(parse_policy(policy), 4, STEPS) == pytest.approx(seconds / CALL)
    record = recorded(12, 4, (3, 6, 10), STEPS, ties=False)
    row = replay(record, parse_policy(policy), 4, costs).rows[0]
    assert row.share == pytest.approx(seconds / (0.8 * STEPS + 0.2 + 0.2))
    _, spent = foretold(record.scores, parse_policy(policy), 4, STEPS, costs)
    assert spent == pytest.approx([seconds / CALL] * 12)


def test_costs_of_larger_batches_are_proportional_and_none_takes_less_than_a_smaller_one() -> None:
    costs = FILE.model_copy(update={"step_seconds": [0.4, 0.3, 0.6, 0.8]}).costs(0)
    assert costs.steps(np.array([0, 1, 2, 3, 4, 8])) == pytest.approx([0, 2, 2, 3, 4, 8])
    assert costs.best_of(8, STEPS) == pytest.approx(8 * STEPS + 2 * 0.2 / CALL + 2 * 0.2 / CALL)


@pytest.mark.parametrize("costs", [Costs(), FILE.costs(0)])
@pytest.mark.parametrize("budget", [21, 24.5, 32, 45])
def test_a_budget_buys_as_many_as_fit(costs: Costs, budget: float) -> None:
    record, policy = recorded(20, 12, (2, 5), STEPS, ties=False), parse_policy("2:1")
    row = replay_budget(record, policy, budget, costs).rows[0]
    assert costs.of(policy, row.affords, STEPS) <= budget < costs.of(policy, row.affords + 1, STEPS)


class Slow(Mean):
    """Takes a millisecond of the processor per row."""

    def score(self, inputs: torch.Tensor, prompts: object) -> torch.Tensor:
        end = time.process_time() + 0.001 * len(inputs)
        while time.process_time() < end:
            pass
        return inputs.flatten(1).mean(1)


@pytest.mark.slow
@pytest.mark.parametrize("reads", ["latent", "x0_preview", "image"])
def test_what_a_pipeline_takes_is_measured(reads: str) -> None:
    pipe, arguments = opened("shapes")
    plain(pipe, [1], arguments)
    before = state(pipe)
    costs = measure(pipe, arguments, Slow(reads), ["one green star", "two red circles"], 3)
    assert state(pipe) == before
    assert (costs.prompts, costs.device) == (2, "cpu")
    assert [len(seconds) for seconds in (costs.step_seconds, costs.score_seconds, costs.decode_seconds)] == [3, 3, 3]
    assert all(seconds >= 0.001 * count for count, seconds in enumerate(costs.score_seconds, 1))
    assert min(*costs.step_seconds, *costs.decode_seconds) > 0


def test_file_and_back_and_what_is_refused(tmp_path: Path) -> None:
    write_costs(tmp_path / "costs.json", FILE)
    assert read_costs(tmp_path / "costs.json") == FILE
    record = recorded(5, 4, (3,), STEPS, ties=False)
    options = CostOptions(cost_file=tmp_path / "costs.json", reads_x0=True)
    assert options.of(record) == FILE.costs(1)
    (tmp_path / "bad.json").write_text(json.dumps({**FILE.model_dump(), "step_seconds": []}))
    with pytest.raises(NbenchError, match="no cost file: step_seconds"):
        CostOptions(cost_file=tmp_path / "bad.json").of(record)
    with pytest.raises(NbenchError, match="no cost file at"):
        CostOptions(cost_file=tmp_path / "none.json").of(record)
    with pytest.raises(NbenchError, match="leave out"):
        CostOptions(cost_file=tmp_path / "costs.json", score_cost=1.0)
    refused = CliRunner().invoke(app, ["tune", "--model", "x", "--measure"])
    assert isinstance(refused.exception, NbenchError)
    assert "--cost-file" in str(refused.exception)
