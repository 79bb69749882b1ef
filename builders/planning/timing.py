"""How long a build takes on this machine: a few steps of its pipeline, or a batch of its images encoded."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from ...errors import NbenchError
from ...pipelines.find import load_pipeline, resolve_pipeline
from ...pipelines.generate import Trajectories, generate
from ..config import BuildConfig
from ..forward import PARTS, PROCESS, open_forward
from ..images.given import given_images
from ..images.source import ChosenImages
from ..shard_maker import OUT_OF_MEMORY, unless_out_of_memory
from .costs import Costs

TEXT = "two red circles above one blue square on gray background"
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


def time_build(config: BuildConfig) -> Timing:
    """Make batches as large as those of the build, which halve until they fit.

    Raises:
        NbenchError: a pipeline that cannot be had or run, images that cannot be read, or not even one image fits.
    """
    return _time_forward(config) if config.process == PROCESS else _time_pipeline(config)


def _time_pipeline(config: BuildConfig) -> Timing:
    """Run the pipeline for few and for more steps."""
    entry = resolve_pipeline(config.pipeline, config.pipeline_options)
    pipe = load_pipeline(entry, config.dtype or entry.dtype, None, config.options)
    guidance = {} if entry.guidance is None else {"guidance_scale": entry.guidance}
    arguments = {**guidance, **entry.call_kwargs}

    def make(steps: int, batch: int) -> Trajectories:
        called = {**arguments, "num_inference_steps": steps}
        return generate(pipe, [TEXT] * batch, range(batch), range(steps + 1), called, config.signals)

    more = min(_MORE, config.n_steps)
    few = min(_FEW, max(1, more - 1))
    batch, (short, long) = _seconds([partial(make, few), partial(make, more)], config.batch_size or entry.batch_size)
    step = max(0.0, long - short) / (more - few) if more > few else long / more
    return _timing(batch, step, max(0.0, long - more * step))


def _time_forward(config: BuildConfig) -> Timing:
    """Encode images of the build and add noise for all positions that it keeps; a few are repeated to fill a batch."""
    entry = resolve_pipeline(config.pipeline, config.pipeline_options, PARTS)
    asked = config.batch_size or entry.batch_size
    images = _in_memory(given_images(replace(config, limit=min(asked, config.limit or asked), sample=None))[1], asked)
    process = open_forward(entry, images, config.n_steps, config.dtype or entry.dtype)
    batch, (seconds,) = _seconds([lambda batch: process.make(range(batch), range(batch), config.stored)], asked)
    return _timing(batch, 0.0, seconds)


def _in_memory(images: ChosenImages, most: int) -> ChosenImages:
    """The first ones, at most so many, over and over: how fast a disk or the Hub gives them is not what is timed."""
    held = [images.encoded(row) for row in range(min(most, len(images.numbers) * images.candidates))]
    return ChosenImages(replace(images.source, read=lambda row, _: held[row % len(held)]), range(most), 1)


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
            raise NbenchError(f"{OUT_OF_MEMORY} with one image: use --dtype float16, a smaller size or another machine")
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
