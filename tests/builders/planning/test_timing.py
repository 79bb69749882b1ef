"""The hours of a plan are those in which devices that make whole shards are done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nbench.builders.config import BuildConfig
from nbench.builders.planning.costs import estimate_costs
from nbench.builders.planning.timing import Timing
from nbench.jobs.engine import Hear, Report, Team
from nbench.jobs.job import Context
from nbench.jobs.run import Run, run
from nbench.jobs.store import LocalStore
from nbench.jobs.trial import TrialJob
from nbench.jobs.worker import Assignment, Shift, Task

SILENT = Context(lambda text: None, lambda rows: None)


@dataclass
class InStep:
    """An engine whose devices take equally long for a unit: all that have one make it in one round."""

    devices: int
    rounds: int = 0
    elsewhere: bool = False
    _given: dict[str, Task] = field(default_factory=dict)

    @contextmanager
    def team(self, assignments: Sequence[Assignment], hear: Hear) -> Iterator[Team]:
        self._workers = {str(i): Shift(assignments, SILENT) for i in range(self.devices)}
        self._hear = hear
        yield self
        for worker in self._workers.values():
            worker.close()

    def idle(self) -> Sequence[str]:
        return [name for name in self._workers if name not in self._given]

    def give(self, worker: str, task: Task) -> None:
        self._given[worker] = task

    def wait(self, seconds: float) -> None:
        self.rounds += any(task.index >= 0 for task in self._given.values())  # without the first look
        for name, task in list(self._given.items()):
            del self._given[name]
            self._hear(Report(name, self._workers[name].run(task)))


@pytest.mark.parametrize("limit", [7, 8, 1])
def test_two_devices_take_what_the_plan_says(tmp_path: Path, limit: int) -> None:
    costs = estimate_costs(BuildConfig("ncc", limit=limit, candidates=1, rows_per_shard=2))
    timing = Timing("GPU", 1, 1.0, 0.0, None)
    engine = InStep(2)
    assert run(TrialJob(LocalStore(tmp_path), costs.shards), Run(engine, shown=False)).made == costs.shards
    hours_a_shard = timing.device_hours(costs) / costs.shards
    assert timing.hours(costs, 2) == pytest.approx(engine.rounds * hours_a_shard)
    ranks = [len(Run(share=(rank, 2)).own(range(costs.shards))) for rank in range(2)]
    assert (sum(ranks), max(ranks)) == (costs.shards, engine.rounds)
