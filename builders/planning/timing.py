"""How long a build takes on this machine: times a few steps of its pipeline, or the encoding of a batch of images."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ...errors import NbenchError
from ..out_of_memory import ONE_DOES_NOT_FIT, unless_out_of_memory

if TYPE_CHECKING:
    from .costs import Costs

_FEW, _MORE = 2, 6


@dataclass(frozen=True)
class Timing:
    """Times of a batch: seconds per step, and around all steps; peak bytes on the GPU, if there is one.

    Around the steps are text encoding and decoding. The forward process has no steps: it reads, encodes, adds noise.
    """

    device: str
    batch_size: int
    step_seconds: float
    around_seconds: float
    peak_bytes: int | None

    def seconds_a_row(self, steps: int) -> float:
        """Seconds per trajectory, in a full batch."""
        return (self.around_seconds + steps * self.step_seconds) / self.batch_size

    def device_hours(self, costs: Costs) -> float:
        """For all trajectories with the first look; without loading, waiting for a disk, and references."""
        return costs.all_trajectories * self.seconds_a_row(costs.steps) / 3600

    def hours(self, costs: Costs, devices: int) -> float:
        """Hours on `devices` in parallel, each of which makes whole shards."""
        rounds = -(-costs.shards // devices)
        return self.device_hours(costs) * rounds / costs.shards


def time_steps(make: Callable[[int, int], Any], steps: int, batch: int) -> Timing:
    """Times of `make(steps, batch)`, from two numbers of steps, at most the `steps` of the build.

    Raises:
        NbenchError: not even one image fits into memory.
    """
    more = min(_MORE, steps)
    few = min(_FEW, max(1, more - 1))
    batch, (short, long) = _seconds([partial(make, few), partial(make, more)], batch)
    step = max(0.0, long - short) / (more - few) if more > few else long / more
    return _timing(batch, step, max(0.0, long - more * step))


def time_batches(make: Callable[[int], Any], batch: int) -> Timing:
    """Times of `make(batch)`, which has no steps.

    Raises:
        NbenchError: not even one image fits into memory.
    """
    batch, (seconds,) = _seconds([make], batch)
    return _timing(batch, 0.0, seconds)


def _seconds(makes: list[Callable[[int], Any]], batch: int) -> tuple[int, list[float]]:
    """A batch size that fits, at most `batch`, and the seconds of each of `makes` with it, after a warm-up."""
    import torch

    makes[0](1)  # one-time work is done before the clock runs
    while True:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        seconds = list[float]()
        for make in (makes[0], *makes):
            began = time.perf_counter()
            if unless_out_of_memory(partial(make, batch)) is None:
                break
            seconds.append(time.perf_counter() - began)
        if len(seconds) > len(makes):
            return batch, seconds[1:]
        if batch == 1:
            raise NbenchError(ONE_DOES_NOT_FIT)
        batch //= 2


def _timing(batch: int, step: float, around: float) -> Timing:
    import torch

    cuda = torch.cuda.is_available()
    return Timing(
        device=torch.cuda.get_device_name() if cuda else "CPU",
        batch_size=batch,
        step_seconds=step,
        around_seconds=around,
        peak_bytes=torch.cuda.max_memory_allocated() if cuda else None,
    )
