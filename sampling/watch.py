"""Tells what a running pipeline knows at each position, as soon as it is known."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch

from ..builders.estimate import estimate_x0
from ..builders.layout import LatentLayout
from ..builders.recorder import Recorder
from ..shards.schema import PositionInfo

Estimate = Callable[[], torch.Tensor]
"""The x0 estimates [B, C, h, w] float32 that the last step's prediction stands for; computed when asked for."""
Seen = Callable[[int, torch.Tensor, Estimate], None]
"""Told a position, the latents [B, C, h, w] there on the pipeline's device, and the estimate at the position before it
(at 0 its own, as the step has been predicted by then). What it raises ends the run."""


class Watch:
    """While entered, calls `latent` at every position 0..T of a run: before step k runs for k > 0, and after step T-1.

    Around the scheduler's `step`, as the Recorder: any diffusers pipeline, which stays stock. Position 0, the noise,
    is told when step 0 has predicted.

    Attributes:
        steps: T of the run under way, None before one.

    Raises (on entering, or at the first step):
        NbenchError: the scheduler does not call the denoiser once a step.
    """

    def __init__(self, pipe: Any, latent: Seen) -> None:
        self._scheduler = pipe.scheduler
        self._recorder = Recorder(pipe, ())
        self._layout = LatentLayout(pipe)
        self._latent = latent
        self._outer: Callable[..., Any] | None = None
        self.steps: int | None = None

    def at(self, position: int) -> PositionInfo:
        """What the scheduler says of a position seen, or of the one that the next step starts from."""
        return self._recorder.at(position)

    def __enter__(self) -> Watch:
        self._recorder.__enter__()
        self._layout.__enter__()
        original = self._scheduler.step
        self._outer = original
        signature = inspect.signature(original)

        # pipelines look at the signature of `step` to see whether it takes a generator: wraps shows them the real one
        @functools.wraps(original)
        def step(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            self.steps = len(self._scheduler.timesteps)
            seen = self._recorder.positions
            position = min(len(seen), self.steps)  # the last step adds two
            given = signature.bind(*args, **kwargs).arguments

            def estimate() -> torch.Tensor:
                timestep = seen[position - 1].timestep
                assert timestep is not None
                x0 = estimate_x0(self._scheduler, position - 1, timestep, given["sample"], given["model_output"])
                return self._layout.chw(x0)

            if position == 1:
                self._latent(0, self._layout.chw(given["sample"]).detach(), estimate)
            self._latent(position, self._layout.chw(result[0]).detach(), estimate)
            return result

        self._scheduler.step = step
        return self

    def __exit__(self, *exception: object) -> None:
        self._layout.__exit__()
        self._scheduler.step = self._outer
        self._recorder.__exit__(*exception)
