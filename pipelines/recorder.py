"""Records the latents and signals of a run of a stock pipeline."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from typing import Any

import torch

from ..shards.schema import PositionInfo
from ..shards.signals import activations_of
from .latent_layout import LatentLayout
from .predictions import PredictionWatch
from .step_tap import Step, tapped


class Recorder:
    """Records a pipeline's latents while it is entered; stock pipelines and schedulers stay as they are.

    Position k is the `sample` of call k of `scheduler.step`, before `scale_model_input`, and the finished latent what
    the last call returns. Calling the pipeline again starts over.

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
        self._pipe, self._wanted = pipe, frozenset(positions)
        self._layout = LatentLayout(pipe, lambda noise: None)  # refuses what is no image's before the denoiser runs
        self._layers, self._x0, self._gap = activations_of(signals), "x0" in signals, "cfg_gap" in signals
        self._watch: PredictionWatch | None = None
        self._entered = contextlib.ExitStack()
        self._start()

    def __enter__(self) -> Recorder:
        with contextlib.ExitStack() as entered:
            entered.enter_context(tapped(self._pipe, self._before, self._after))
            entered.enter_context(self._layout)
            if self._gap or self._layers:
                self._watch = PredictionWatch(self._pipe, self._layers)
                entered.callback(self._watch.close)
            self._entered = entered.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._entered.close()

    def _start(self) -> None:
        self.latents: dict[int, torch.Tensor] = {}
        self.positions: list[PositionInfo] = []
        self.x0: dict[int, torch.Tensor] = {}
        self.cfg_gap: torch.Tensor | None = None
        self.activations: dict[str, dict[int, torch.Tensor]] = {layer.layer: {} for layer in self._layers}
        self._gaps: list[torch.Tensor] = []
        if self._watch is not None:
            self._watch.restart()

    def _before(self, step: Step) -> None:
        position = step.position
        if position == 0:
            self._start()
        self.positions.append(step.levels.at(position))
        self._keep(self.latents, position, step.sample)
        if self._x0 and position in self._wanted:
            self._keep(self.x0, position, step.levels.x0(position, step.sample, step.prediction))
        if self._watch is not None:
            gap, activations = self._watch.take(step.prediction, len(step.sample), self._gap)
            self._gaps += [] if gap is None else [gap]
            if position in self._wanted:
                for layer, values in activations.items():
                    self.activations[layer][position] = to_host(values)

    def _after(self, step: Step, latent: torch.Tensor) -> None:
        if not step.is_last:
            return
        steps = step.levels.steps
        self._keep(self.latents, steps, latent)
        self.positions.append(step.levels.at(steps))
        if self._gaps:
            self.cfg_gap = to_host(torch.stack(self._gaps, 1))
        if latent.is_cuda:
            torch.cuda.current_stream(latent.device).synchronize()  # the only time: all copies have arrived

    def _keep(self, kept: dict[int, torch.Tensor], position: int, sample: torch.Tensor) -> None:
        if position in self._wanted:
            kept[position] = to_host(self._layout.chw(sample))


def to_host(values: torch.Tensor) -> torch.Tensor:
    """A copy on the CPU; from a GPU into pinned memory, without waiting for it to arrive.

    The copy is queued on the stream that computes, so what it reads is neither early nor overwritten.
    """
    values = values.detach()
    if not values.is_cuda:
        return values.to("cpu", copy=True)
    return torch.empty_like(values, device="cpu", pin_memory=True).copy_(values, non_blocking=True)
