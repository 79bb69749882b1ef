"""How long a pipeline takes on this machine, from a few steps of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ..errors import NbenchError
from .config import BuildConfig
from .costs import Costs
from .generate import Trajectories, generate
from .make import OUT_OF_MEMORY, unless_out_of_memory
from .pipelines import load_pipeline, resolve_pipeline

TEXT = "two red circles above one blue square on gray background"
_FEW, _MORE = 2, 6


@dataclass(frozen=True)
class Timing:
    """Of a batch: seconds of a step, and of all around the steps (texts, decoding); most bytes on the GPU, if any."""

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
        rows = costs.denoiser_rows / (costs.rows_a_step * costs.steps)
        return rows * self.seconds_a_row(costs.steps) / 3600

    def hours(self, costs: Costs, devices: int) -> float:
        """On so many devices, each of which makes whole shards."""
        rounds = -(-costs.shards // devices)
        return self.device_hours(costs) * rounds / costs.shards


def time_pipeline(config: BuildConfig) -> Timing:
    """Run the pipeline for few and for more steps at the batch size of the build, which halves until it fits.

    Raises:
        NbenchError: a pipeline that cannot be had or run, or not even one image fits.
    """
    entry = resolve_pipeline(config.pipeline, config.pipeline_options)
    pipe = load_pipeline(entry, config.dtype or entry.dtype, None, config.options)
    guidance = {} if entry.guidance is None else {"guidance_scale": entry.guidance}
    run = partial(_seconds, pipe, {**guidance, **entry.call_kwargs}, config)
    more = min(_MORE, config.n_steps)
    few = min(_FEW, max(1, more - 1))
    run(1, few)  # what is done once is done before the clock runs
    cuda = torch.cuda.is_available()
    batch = config.batch_size or entry.batch_size
    while True:
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        if run(batch, few) is not None and (short := run(batch, few)) and (long := run(batch, more)):
            break
        if batch == 1:
            raise NbenchError(f"{OUT_OF_MEMORY} with one image: use --dtype float16, a smaller size or another machine")
        batch //= 2
    step = max(0.0, long - short) / (more - few) if more > few else long / more
    return Timing(
        device=torch.cuda.get_device_name() if cuda else "CPU",
        batch_size=batch,
        step_seconds=step,
        around_seconds=max(0.0, long - more * step),
        peak_bytes=torch.cuda.max_memory_allocated() if cuda else None,
    )


def _seconds(pipe: Any, arguments: dict[str, Any], config: BuildConfig, batch: int, steps: int) -> float | None:
    """Of one call; None where it does not fit into memory."""
    called = {**arguments, "num_inference_steps": steps}

    def make() -> Trajectories:
        return generate(pipe, [TEXT] * batch, range(batch), range(steps + 1), called, config.signals)

    began = time.perf_counter()
    made = unless_out_of_memory(make)
    return None if made is None else time.perf_counter() - began
