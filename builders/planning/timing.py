"""How long a build takes on this machine: a few steps of its pipeline, or a batch of its images encoded."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from ...errors import NbenchError
from ..out_of_memory import ONE_DOES_NOT_FIT, unless_out_of_memory

if TYPE_CHECKING:
    from .costs import Costs

_FEW, _MORE = 2, 6


@dataclass(frozen=True)
class Timing:
    """Of a batch: seconds of a step, and of all around the steps; most bytes on the GPU, if any.

    Around the steps are texts and decoding. The forward process has no steps: reading, encoding and adding noise.
    """

    device: str
    batch_size: int
    step_seconds: float
    around_seconds: float
    peak_bytes: int | None

    def seconds_a_row(self, steps: int) -> float:
        """Of a whole trajectory, its share of a full batch."""
        return (self.around_seconds + steps * self.step_seconds) / self.batch_size

    def device_hours(self, costs: Costs) -> float:
        """All trajectories, the first look included; neither loading, nor waiting for a disk, nor references."""
        return costs.made * self.seconds_a_row(costs.steps) / 3600

    def hours(self, costs: Costs, devices: int) -> float:
        """On so many devices, each of which makes whole shards."""
        rounds = -(-costs.shards // devices)
        return self.device_hours(costs) * rounds / costs.shards


def time_steps(make: Callable[[int, int], Any], steps: int, batch: int) -> Timing:
    """Of `make(steps, batch)`, from few and from more steps than the `steps` of the build, if it has so many.

    Raises:
        NbenchError: not even one image fits into memory.
    """
    more = min(_MORE, steps)
    few = min(_FEW, max(1, more - 1))
    batch, (short, long) = _seconds([partial(make, few), partial(make, more)], batch)
    step = max(0.0, long - short) / (more - few) if more > few else long / more
    return _timing(batch, step, max(0.0, long - more * step))


def time_batches(make: Callable[[int], Any], batch: int) -> Timing:
    """Of `make(batch)`, which has no steps.

    Raises:
        NbenchError: not even one image fits into memory.
    """
    batch, (seconds,) = _seconds([make], batch)
    return _timing(batch, 0.0, seconds)


def _seconds(makes: list[Callable[[int], Any]], batch: int) -> tuple[int, list[float]]:
    """A batch size that fits, at most `batch`, and seconds of each of `makes` with it, after one that warms up."""
    makes[0](1)  # what is done once is done before the clock runs
    while True:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        found = list[float]()
        for make in (makes[0], *makes):
            began = time.perf_counter()
            if unless_out_of_memory(partial(make, batch)) is None:
                break
            found.append(time.perf_counter() - began)
        if len(found) > len(makes):
            return batch, found[1:]
        if batch == 1:
            raise NbenchError(ONE_DOES_NOT_FIT)
        batch //= 2


def _timing(batch: int, step: float, around: float) -> Timing:
    cuda = torch.cuda.is_available()
    return Timing(
        device=torch.cuda.get_device_name() if cuda else "CPU",
        batch_size=batch,
        step_seconds=step,
        around_seconds=around,
        peak_bytes=torch.cuda.max_memory_allocated() if cuda else None,
    )
