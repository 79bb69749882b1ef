"""Tells what a running pipeline knows at each position, as soon as it is known."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch

from ..builders.layout import LatentLayout
from ..builders.recorder import Recorder
from ..shards.schema import PositionInfo

Seen = Callable[[int, torch.Tensor], None]
"""Told a position and the latents [B, C, h, w] there, on the pipeline's device; what it raises ends the run."""


class Watch:
    """While entered, calls `latent` at every position 0..T of a run: before step k runs for k > 0, and after step T-1.

    Around the scheduler's `step`, as the Recorder: any diffusers pipeline, which stays stock. Position 0, the noise,
    is told when step 0 has predicted.

    Attributes:
        steps: T of the run under way, None before one.
        positions: what the scheduler says of each position seen so far.

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

    @property
    def positions(self) -> list[PositionInfo]:
        return self._recorder.positions

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
            position = len(self.positions) - (len(self.positions) > self.steps)  # the last step adds two
            if position == 1:
                self._latent(0, self._layout.chw(signature.bind(*args, **kwargs).arguments["sample"]).detach())
            self._latent(position, self._layout.chw(result[0]).detach())
            return result

        self._scheduler.step = step
        return self

    def __exit__(self, *exception: object) -> None:
        self._layout.__exit__()
        self._scheduler.step = self._outer
        self._recorder.__exit__(*exception)
