"""The options that say who makes the units of a job."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from ..errors import NbenchError, check_range, reason_of
from ..options import panel, words
from .claims import LEASE
from .engine import Engine, Here
from .run import ATTEMPTS, Run

_engine = panel("Workers")


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Who makes the units of a job.

    Raises:
        NbenchError: options that exclude or need each other, or no rank in the environment.
    """

    engine: Annotated[Literal["local", "ray"], _engine("Workers are processes here, or actors of a Ray cluster.")] = (
        "local"
    )
    devices: Annotated[
        tuple[str, ...],
        _engine("GPUs of this machine, as 0,1,2: one worker process each.", text=str | None, parse=words),
    ] = ()
    workers: Annotated[
        int | None, _engine("Number of workers. [default: one per device; with Ray one per GPU of the cluster]")
    ] = None
    address: Annotated[str, _engine("Ray: address of the cluster; local starts one here, auto joins.")] = "local"
    gpus_per_worker: Annotated[
        float | None, _engine("Ray: GPUs of a worker. [default: 1 if there are any]", flag="--num-gpus-per-worker")
    ] = None
    runtime_env: Annotated[
        Path | None, _engine("Ray: JSON file with the runtime_env of the workers (packages, variables).")
    ] = None
    units: Annotated[
        str | None, _engine("Make only these units (shards), as 0:100, and leave the rest to other processes.")
    ] = None
    rank: Annotated[
        str | None,
        _engine(
            "Make only the units of this process: a number below --world-size, or auto: from SLURM_ARRAY_TASK_ID, "
            "SLURM_PROCID or RANK."
        ),
    ] = None
    world_size: Annotated[int | None, _engine("Number of processes that share the work, for --rank.")] = None
    attempts: Annotated[int, _engine("Attempts at a unit before it counts as failed.")] = ATTEMPTS
    lease: Annotated[float, _engine("Seconds without a sign of life after which a worker's unit is taken over.")] = (
        LEASE
    )

    def __post_init__(self) -> None:
        for name in ("workers", "world_size", "attempts"):
            check_range(f"--{name.replace('_', '-')}", getattr(self, name))
        check_range("--lease", self.lease, 0.1)
        check_range("--num-gpus-per-worker", self.gpus_per_worker, 0)
        if self.engine == "local" and (self.address != "local" or self.gpus_per_worker is not None or self.runtime_env):
            raise NbenchError("--address, --num-gpus-per-worker and --runtime-env are for --engine ray: add it")
        if self.engine == "ray" and self.devices:
            raise NbenchError("--devices are those of this machine: with --engine ray, give --workers")
        if self.devices and self.workers not in (None, len(self.devices)):
            raise NbenchError(f"--workers {self.workers} do not fit --devices {','.join(self.devices)}: leave one out")
        if self.units is not None and self.rank is not None:
            raise NbenchError("--units and --rank both select units: leave one out")
        if self.world_size is not None and self.rank is None:
            raise NbenchError("--world-size is for --rank: add it")
        _ = self.share

    @property
    def share(self) -> range | tuple[int, int] | None:
        """The units of this process: a range, or rank and world size; None for all."""
        if self.units is not None:
            return parse_units(self.units)
        if self.rank is None:
            return None
        if self.rank == "auto":
            return rank_of(os.environ)
        if self.world_size is None:
            raise NbenchError("--rank needs --world-size: add it")
        if not self.rank.isdecimal() or int(self.rank) >= self.world_size:
            raise NbenchError(f"--rank {self.rank} is out of range: give auto, or 0..{self.world_size - 1}")
        return int(self.rank), self.world_size

    def run(self) -> Run:
        """How to run a job."""
        return Run(self._engine(), self.share, self.attempts, self.lease)

    def _engine(self) -> Engine:
        if self.engine == "ray":
            from .ray_engine import RayEngine

            return RayEngine(self.workers, self.gpus_per_worker, self.address, self._runtime_env())
        if not self.devices and self.workers in (None, 1):
            return Here()
        from .processes import Processes, devices_here

        return Processes(self.devices or devices_here(self.workers or 1))

    def _runtime_env(self) -> Mapping[str, Any]:
        if self.runtime_env is None:
            return {}
        try:
            content = json.loads(self.runtime_env.read_bytes())
        except (OSError, ValueError) as error:
            raise NbenchError(f"cannot read --runtime-env {self.runtime_env}: {reason_of(error)}") from None
        if not isinstance(content, dict):
            raise NbenchError(f"--runtime-env {self.runtime_env} is not a JSON object: see Ray's runtime_env")
        return content


def parse_units(text: str) -> range:
    """The units in `text`: one number, or first:end, which is excluded.

    Raises:
        NbenchError: neither, or no unit at all.

    >>> parse_units("0:100"), parse_units("7")
    (range(0, 100), range(7, 8))
    """
    first, colon, end = text.partition(":")
    if not first.isdecimal() or (colon and not end.isdecimal()):
        raise NbenchError(f"--units {text} is neither a number nor FIRST:END, such as 0:100")
    units = range(int(first), int(end) if colon else int(first) + 1)
    if not units:
        raise NbenchError(f"--units {text} selects no unit: END must be greater than FIRST")
    return units


def rank_of(environment: Mapping[str, str]) -> tuple[int, int]:
    """The rank and world size of this process: of a task of a Slurm array, of the tasks of a Slurm job, or of both; or
    as torchrun, MPI launchers and others set them.

    Raises:
        NbenchError: the environment has none.

    >>> rank_of({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "8"})
    (2, 8)
    >>> rank_of({"RANK": "1", "WORLD_SIZE": "4"})
    (1, 4)
    """

    def number(name: str, default: int) -> int:
        text = environment.get(name, str(default))
        if not text.isdecimal():
            raise NbenchError(f"{name}={text} is not a number: give --rank and --world-size")
        return int(text)

    if "SLURM_ARRAY_TASK_ID" in environment or "SLURM_PROCID" in environment:
        first, step = number("SLURM_ARRAY_TASK_MIN", 0), number("SLURM_ARRAY_TASK_STEP", 1)
        task, tasks = number("SLURM_PROCID", 0), number("SLURM_NTASKS", 1)
        place = (number("SLURM_ARRAY_TASK_ID", first) - first) // max(1, step)
        rank, size = place * tasks + task, number("SLURM_ARRAY_TASK_COUNT", 1) * tasks
    elif "RANK" in environment and "WORLD_SIZE" in environment:
        rank, size = number("RANK", 0), number("WORLD_SIZE", 1)
    else:
        raise NbenchError("--rank auto finds neither SLURM_ARRAY_TASK_ID, SLURM_PROCID nor RANK: give a number")
    if not 0 <= rank < size:
        raise NbenchError(f"rank {rank} of {size} in the environment is out of range: give --rank and --world-size")
    return rank, size
