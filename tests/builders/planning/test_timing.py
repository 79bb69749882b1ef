"""The hours of a plan are those in which devices that make whole shards are done."""

from __future__ import annotations

from pathlib import Path

import pytest

from nbench.builders.config import BuildConfig
from nbench.builders.planning.costs import estimate_costs
from nbench.builders.planning.timing import Timing
from nbench.jobs.run import Run, run
from nbench.jobs.store import LocalStore
from nbench.jobs.trial import TrialJob

from ...jobs.in_step import InStep


@pytest.mark.parametrize("limit", [7, 8, 1])
def test_two_devices_take_what_the_plan_says(tmp_path: Path, limit: int) -> None:
    costs = estimate_costs(BuildConfig("ncc", limit=limit, candidates=1, rows_per_shard=2))
    timing = Timing("GPU", 1, 1.0, 0.0, None)
    engine = InStep((None, None))
    assert run(TrialJob(LocalStore(tmp_path), costs.shards), Run(engine, shown=False)).made == costs.shards
    hours_a_shard = timing.device_hours(costs) / costs.shards
    assert timing.hours(costs, 2) == pytest.approx(engine.rounds * hours_a_shard)
    ranks = [len(Run(share=(rank, 2)).own(range(costs.shards))) for rank in range(2)]
    assert (sum(ranks), max(ranks)) == (costs.shards, engine.rounds)
