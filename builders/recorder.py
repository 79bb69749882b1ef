"""Sees every latent of a run: a context manager around the scheduler's `step`."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Collection
from typing import Any

import torch

from ..errors import NbenchError
from ..shards.schema import PositionInfo
from .layout import LatentLayout


class Recorder:
    """Records a pipeline's latents while it is entered; stock pipelines and schedulers stay as they are.

    Every diffusers pipeline calls `scheduler.step(model_output, timestep, sample)`: position k is the `sample` of call
    k, before `scale_model_input`, and the finished latent what the last call returns. Calling the pipeline again
    starts over.

    Attributes:
        latents: by position, those of `positions` only, [B, C, H, W] on the CPU in the run's own dtype.
        positions: what the scheduler says of each position seen so far, all of 0..T once the run is over.

    Raises (on entering, or at the first step):
        NbenchError: the scheduler does not call the denoiser once a step.
    """

    def __init__(self, pipe: Any, positions: Collection[int]) -> None:
        self.latents: dict[int, torch.Tensor] = {}
        self.positions: list[PositionInfo] = []
        self._scheduler = pipe.scheduler
        self._layout = LatentLayout(pipe)
        self._wanted = frozenset(positions)
        self._outer: Callable[..., Any] | None = None

    def __enter__(self) -> Recorder:
        if getattr(self._scheduler, "order", 1) != 1:
            raise self._refusal()
        original = self._scheduler.step
        self._outer = vars(self._scheduler).get("step")
        signature = inspect.signature(original)

        # pipelines look at the signature of `step` to see whether it takes a generator: wraps shows them the real one
        @functools.wraps(original)
        def step(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs).arguments
            self._before(float(given["timestep"]), given["sample"])
            result = original(*args, **kwargs)
            self._after(result[0])
            return result

        self._scheduler.step = step
        self._layout.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._layout.__exit__()
        del self._scheduler.step  # the instance's attribute: the class's method shows again
        if self._outer is not None:
            self._scheduler.step = self._outer

    def _before(self, timestep: float, sample: torch.Tensor) -> None:
        if timestep == float(self._scheduler.timesteps[0]):
            self.latents, self.positions = {}, []
            calls = len(self._scheduler.timesteps)
            if calls != (self._scheduler.num_inference_steps or calls):
                raise self._refusal()
        position = len(self.positions)
        self.positions.append(
            PositionInfo(position, timestep, self._sigma(position, timestep), self._input_scale(position))
        )
        self._keep(position, sample)

    def _after(self, sample: torch.Tensor) -> None:
        if len(self.positions) == len(self._scheduler.timesteps):
            self._keep(len(self.positions), sample)
            self.positions.append(PositionInfo(len(self.positions), None, 0.0, 1.0))

    def _keep(self, position: int, sample: torch.Tensor) -> None:
        if position in self._wanted:
            self.latents[position] = self._layout.chw(sample).detach().to("cpu", copy=True)

    def _sigma(self, position: int, timestep: float) -> float | None:
        if hasattr(self._scheduler, "sigmas"):
            return float(self._scheduler.sigmas[position])
        if hasattr(self._scheduler, "alphas_cumprod"):
            alpha = float(self._scheduler.alphas_cumprod[int(timestep)])
            return math.sqrt((1 - alpha) / alpha)
        return None

    def _input_scale(self, position: int) -> float:
        """What the scheduler multiplies the latent by before the denoiser sees it; flow matching leaves it alone."""
        if not hasattr(self._scheduler, "scale_model_input"):
            return 1.0
        return float(self._scheduler.scale_model_input(torch.ones(1), self._scheduler.timesteps[position]))

    def _refusal(self) -> NbenchError:
        name = type(self._scheduler).__name__
        return NbenchError(f"{name} does not call the denoiser once a step: use a first-order scheduler such as Euler")
