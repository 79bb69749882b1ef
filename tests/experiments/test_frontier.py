"""The frontier: its figures are those of tune and of plain arithmetic, and its page has them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nbench.experiments.frontier import frontier, oracle_rows, plain_cells
from nbench.experiments.frontier_page import frontier_section
from nbench.sampling.offline.config import Costs, TuneConfig
from nbench.sampling.offline.expectation import expected_best
from nbench.sampling.offline.races import restarts
from nbench.sampling.offline.tune import tune

from ..sampling.conftest import recorded

COSTS = Costs(score=0.2, decode=0.5)


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

    oracle = oracle_rows(judges, COSTS, full, 10)
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
    file = tmp_path / "frontier.json"
    file.write_text(json.dumps({"prompts": 60, "candidates": 4, "rows": rows, "oracle": oracle}))
    assert "| fixed |" in frontier_section(file)
    assert "not run yet" in frontier_section(tmp_path / "none.json").lower()
