"""Options of workers: what excludes or needs what, and the rank that a launcher sets."""

from __future__ import annotations

from typing import Any

import pytest

from nbench.errors import NbenchError
from nbench.jobs.engine import Here
from nbench.jobs.options import EngineOptions, parse_units, rank_of
from nbench.jobs.processes import Processes, devices_here


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"address": "auto"}, "are for --engine ray"),
        ({"engine": "ray", "devices": ("0",)}, "--devices are those of this machine"),
        ({"devices": ("0", "1"), "workers": 3}, "do not fit --devices 0,1"),
        ({"units": "0:3", "rank": "0"}, "both select units"),
        ({"world_size": 2}, "--world-size is for --rank"),
        ({"rank": "0"}, "--rank needs --world-size"),
        ({"rank": "2", "world_size": 2}, r"out of range: give auto, or 0\.\.1"),
        ({"rank": "x", "world_size": 2}, "out of range"),
        ({"units": "3:3"}, "selects no unit"),
        ({"units": "a:3"}, "neither a number nor FIRST:END"),
        ({"workers": 0}, "--workers 0 is out of range"),
        ({"lease": 0.0}, "--lease 0 is out of range"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(NbenchError, match=reason):
        EngineOptions(**options)


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "4"}, (0, 4)),
        ({"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_MIN": "2", "SLURM_ARRAY_TASK_COUNT": "4"}, (3, 4)),
        (
            {
                "SLURM_ARRAY_TASK_ID": "6",
                "SLURM_ARRAY_TASK_MIN": "2",
                "SLURM_ARRAY_TASK_STEP": "2",
                "SLURM_ARRAY_TASK_COUNT": "4",
                "SLURM_PROCID": "1",
                "SLURM_NTASKS": "8",
            },
            (17, 32),
        ),
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "8"}, (3, 8)),
        ({"RANK": "1", "WORLD_SIZE": "2"}, (1, 2)),
    ],
)
def test_the_rank_of_a_launcher(environment: dict[str, str], rank: tuple[int, int]) -> None:
    assert rank_of(environment) == rank


@pytest.mark.parametrize("environment", [{}, {"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "a", "WORLD_SIZE": "2"}])
def test_no_rank(environment: dict[str, str]) -> None:
    with pytest.raises(NbenchError, match="rank"):
        rank_of(environment)


def test_who_makes_the_units(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(EngineOptions().run().engine, Here)
    assert EngineOptions(devices=("0", "3")).run().engine == Processes(("0", "3"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    assert devices_here(3) == ("4", "5", "4")
    assert devices_here(1) == (None,)
    assert EngineOptions(units="2:4").run().own(range(9)) == [2, 3]
    ranks = [EngineOptions(rank=str(rank), world_size=4).run().own(range(9)) for rank in range(4)]
    assert sorted(unit for rank in ranks for unit in rank) == list(range(9))
    assert parse_units("7") == range(7, 8)
