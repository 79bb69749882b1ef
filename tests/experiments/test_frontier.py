"""The frontier: its figures are those of tune and of plain arithmetic, and its page has them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nbench.experiments import data, frontier_plans
from nbench.experiments.frontier import run_frontier
from nbench.experiments.frontier_cells import frontier, oracle_rows, plain_cells, stack_frontier
from nbench.experiments.frontier_page import frontier_section
from nbench.sampling.offline.config import Costs, TuneConfig
from nbench.sampling.offline.expectation import expected_best
from nbench.sampling.offline.races import restarts
from nbench.sampling.offline.tune import tune
from nbench.sampling.policy import parse_policy

from ..sampling.conftest import recorded

COSTS = Costs(score=0.2, decode=0.5)


@pytest.mark.slow
def test_cells_are_the_held_out_figures_of_tune(tmp_path: Path) -> None:
    record = recorded(60, 4, (2, 5, 8), 10, ties=False)
    judges = {"vqascore": record.reference, "clip": record.final, "truth": record.reference.round()}
    full = COSTS.best_of(4, 10)
    fixed, adaptive = (frontier(record, judges, COSTS, full, policies) for policies in (None, restarts))
    tuned = tune(record, TuneConfig(n=4, budget=0.5, costs=COSTS))[0]
    [cell] = [cell for cell in fixed if (cell["share"], cell["reference"]) == (0.5, "vqascore")]
    assert cell["recovered_gain"] == [round(value, 3) for value in tuned.held_out["recovered_gain"]]
    assert cell["spent"] == pytest.approx(tuned.held_out_share, abs=1e-4)
    assert set(cell["policies"]) == set(tuned.fold_policies)
    assert {cell["share"] for cell in adaptive} <= {0.3, 0.35, 0.5}  # one image costs .24 and two draws more

    oracle = oracle_rows(judges, COSTS, full, 10, (1, 2, 3))
    [cell] = [
        cell
        for row in oracle
        if row["row"].endswith(" at 2")
        for cell in row["cells"]
        if (cell["share"], cell["reference"]) == (0.35, "vqascore")
    ]
    most = max(m for m in range(1, 5) if m * 2 + 8 + 0.5 <= 0.35 * full)
    best, random = expected_best(record.reference, record.reference, most).mean(), record.reference.mean()
    final = record.reference[np.arange(60), record.final.argmax(1)].mean()
    assert cell["recovered_gain"][0] == pytest.approx((best - random) / (final - random), abs=1e-3)

    rows = [{"row": "fixed", "cells": fixed}, {"row": "plain", "cells": plain_cells(judges)}]
    content = {"prompts": 60, "candidates": 4, "rows": rows, "oracle": oracle}
    (tmp_path / "frontier.json").write_text(json.dumps(content))
    assert "| fixed |" in frontier_section("frontier", tmp_path)
    assert "not run yet" in frontier_section("frontier-unet", tmp_path).lower()


def test_stacks_of_two_scorers_are_better_than_either_and_cost_what_their_stages_cost() -> None:
    one, other = (recorded(200, 4, (2, 5), 10, ties=False, seed=seed) for seed in (0, 1))
    other = replace(one, scores={k: other.scores[k] - other.reference + one.reference for k in (2, 5)})
    judges = {"vqascore": one.reference, "clip": one.final, "truth": one.reference}
    full = COSTS.best_of(4, 10)
    stacked = stack_frontier([one, other], judges, COSTS, full)
    assert [cell["share"] for cell in stacked if cell["reference"] == "truth"] == [0.35, 0.5]
    for table in (one, other):
        single = frontier(table, judges, COSTS, full)
        assert single[-1]["recovered_gain"][0] < stacked[-1]["recovered_gain"][0]
    costs = [COSTS.of(parse_policy(text), 4, 10) for text in stacked[-1]["policies"]]
    assert min(costs) - 0.01 <= stacked[-1]["spent"] * full <= max(costs) + 0.01 <= 0.5 * full


@pytest.mark.slow
def test_the_second_generators_frontier_runs_and_runs_again_from_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PROMPTS": 6, "X0_ROWS": 80, "X0_EPOCHS": 1}.items():
        monkeypatch.setattr(data, name, value)
    monkeypatch.setattr("nbench.experiments.frontier.AT_ONCE", 2)
    run_frontier("frontier-unet", tmp_path / "work", tmp_path)
    first = (tmp_path / "frontier-unet.json").read_text()
    rows = [row["row"] for row in json.loads(first)["rows"]]
    assert rows == [*(way.row for way in frontier_plans.FRONTIERS["frontier-unet"].ways()), "plain Best-of-n"]
    assert "| race, noisyclip-t |" in frontier_section("frontier-unet", tmp_path)
    monkeypatch.setattr("nbench.experiments.frontier.score", None)
    monkeypatch.setattr("nbench.experiments.frontier.measure", None)
    run_frontier("frontier-unet", tmp_path / "work", tmp_path)
    assert (tmp_path / "frontier-unet.json").read_text() == first
