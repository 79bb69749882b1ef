"""Sees every latent of a run: a context manager around the scheduler's `step`."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch

from ..errors import NbenchError
from ..shards.schema import PositionInfo
from ..shards.signals import activations_of
from .latent_layout import LatentLayout
from .noise_levels import estimate_x0
from .predictions import PredictionWatch


class Recorder:
    """Records a pipeline's latents while it is entered; stock pipelines and schedulers stay as they are.

    Every diffusers pipeline calls `scheduler.step(model_output, timestep, sample)`: position k is the `sample` of call
    k, before `scale_model_input`, and the finished latent what the last call returns. Calling the pipeline again
    starts over.

    Args:
        signals: what to record besides latents: x0, cfg_gap, activations:LAYER[:DIM] (see `shards.signals`).

    Attributes:
        latents: by position, those of `positions` only, [B, C, H, W] on the CPU in the run's own dtype.
        positions: what the scheduler says of each position seen so far, all of 0..T once the run is over.
        x0: the finished latents predicted from those of `positions` before the last, float32 [B, C, H, W].
        cfg_gap: float32 [B, T], the L2 norm of conditional minus unconditional prediction at every step (CFG-Rejection,
            arXiv 2505.23343); None until the run is over.
        activations: by layer and position before the last, float32 [B, D], means over places of the layer's output for
            the prompt (ProbeSelect, arXiv 2603.02829).

    On CUDA all of them are being copied until the run is over.

    Raises (on entering, or at the first step):
        NbenchError: the scheduler does not call the denoiser once a step, or a signal is not to be had.
    """

    def __init__(self, pipe: Any, positions: Collection[int], signals: Collection[str] = ("latent",)) -> None:
        self._pipe, self._scheduler, self._wanted = pipe, pipe.scheduler, frozenset(positions)
        self._layout = LatentLayout(pipe)
        self._layers, self._x0, self._gap = activations_of(signals), "x0" in signals, "cfg_gap" in signals
        self._outer: Callable[..., Any] | None = None
        self._watch: PredictionWatch | None = None
        self._timesteps: torch.Tensor | None = None
        self._sigmas: list[float] | None = None
        self._start(())

    def __enter__(self) -> Recorder:
        if getattr(self._scheduler, "order", 1) != 1:
            raise self._refusal()
        if self._gap or self._layers:
            self._watch = PredictionWatch(self._pipe, self._layers)
        original = self._scheduler.step
        self._outer = vars(self._scheduler).get("step")
        signature = inspect.signature(original)

        # pipelines look at the signature of `step` to see whether it takes a generator: wraps shows them the real one
        @functools.wraps(original)
        def step(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs).arguments
            self._before(given["model_output"], given["sample"])
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
        if self._watch is not None:
            self._watch.close()

    def _start(self, timesteps: Sequence[float]) -> None:
        self.latents: dict[int, torch.Tensor] = {}
        self.positions: list[PositionInfo] = []
        self.x0: dict[int, torch.Tensor] = {}
        self.cfg_gap: torch.Tensor | None = None
        self.activations: dict[str, dict[int, torch.Tensor]] = {layer.layer: {} for layer in self._layers}
        self._times, self._gaps = timesteps, list[torch.Tensor]()
        if self._watch is not None:
            self._watch.restart()

    def at(self, position: int) -> PositionInfo:
        """What the scheduler says of a position seen, or of the one that the next step starts from."""
        if position < len(self.positions):
            return self.positions[position]
        timestep = self._times[position]
        return PositionInfo(position, timestep, self._sigma(position, timestep), self._input_scale(position))

    def _before(self, prediction: torch.Tensor, sample: torch.Tensor) -> None:
        times = self._scheduler.timesteps
        # every run sets them anew; to compare their values, or look at a sigma, would wait for the GPU at each step
        if times is not self._timesteps or len(self.positions) > len(self._times):
            self._timesteps = times
            self._sigmas = self._scheduler.sigmas.tolist() if hasattr(self._scheduler, "sigmas") else None
            self._start(times.tolist())
            if len(times) != (self._scheduler.num_inference_steps or len(times)):
                raise self._refusal()
        position = len(self.positions)
        timestep = self._times[position]
        self.positions.append(self.at(position))
        self._keep(self.latents, position, sample)
        if self._x0 and position in self._wanted:
            x0 = estimate_x0(self._scheduler, position, timestep, sample, prediction)
            self._keep(self.x0, position, x0)
        if self._watch is not None:
            gap, activations = self._watch.take(prediction, len(sample), self._gap)
            self._gaps += [] if gap is None else [gap]
            if position in self._wanted:
                for layer, values in activations.items():
                    self.activations[layer][position] = to_host(values)

    def _after(self, sample: torch.Tensor) -> None:
        if len(self.positions) < len(self._times):
            return
        self._keep(self.latents, len(self.positions), sample)
        self.positions.append(PositionInfo(len(self.positions), None, 0.0, 1.0))
        if self._gaps:
            self.cfg_gap = to_host(torch.stack(self._gaps, 1))
        if sample.is_cuda:
            torch.cuda.current_stream(sample.device).synchronize()  # the only time: all copies have arrived

    def _keep(self, kept: dict[int, torch.Tensor], position: int, sample: torch.Tensor) -> None:
        if position in self._wanted:
            kept[position] = to_host(self._layout.chw(sample))

    def _sigma(self, position: int, timestep: float) -> float | None:
        if self._sigmas is not None:
            return self._sigmas[position]
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


def to_host(values: torch.Tensor) -> torch.Tensor:
    """A copy on the CPU; from a GPU into pinned memory, without waiting for it to arrive.

    The copy is queued on the stream that computes, so what it reads is neither early nor overwritten.
    """
    values = values.detach()
    if not values.is_cuda:
        return values.to("cpu", copy=True)
    return torch.empty_like(values, device="cpu", pin_memory=True).copy_(values, non_blocking=True)
