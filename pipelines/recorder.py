"""Record the latents and signals of a stock pipeline's run."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from typing import Any

import torch

from ..shards.schema import PositionInfo
from ..shards.signals import activations_of, calls_ahead, estimates_of
from .latent_layout import LatentLayout
from .look_ahead import LookAhead
from .predictions import PredictionWatch
from .step_tap import Step, tapped


class Recorder:
    """While entered, records a pipeline's latents; pipeline and scheduler stay stock.

    Position k is the `sample` of call k of `scheduler.step`, before `scale_model_input`; the finished latent is the
    last call's result. Calling the pipeline again starts over.

    Args:
        signals: what to record besides latents: x0, x0@L, cfg_gap, activations:LAYER[:DIM], attention:LAYER (see
            `shards.signals`).

    Attributes:
        latents: by position, for `positions` only, [B, C, H, W] on the CPU in the run's dtype.
        positions: noise levels of all positions so far; 0..T after the run.
        x0: x0 estimates at `positions` before the last, float32 [B, C, H, W].
        cfg_gap: float32 [B, T], the L2 norm of conditional minus unconditional prediction at every step (CFG-Rejection,
            arXiv 2505.23343); None until the run has ended.
        activations: by layer and position before the last, float32 [B, D], spatial means of the layer's output for
            the prompt (ProbeSelect, arXiv 2603.02829); under attention:LAYER, mass and spread of each prompt token
            (see `attention.AttentionStatistics`).
        ahead: by signal x0@L, as `x0`: estimates of L denoiser calls (see `look_ahead.LookAhead`).

    On CUDA the copies are complete only when the run has ended.

    Raises (on entering, or at the first step):
        NbenchError: the scheduler does not call the denoiser once per step, or a signal is not available.
    """

    def __init__(self, pipe: Any, positions: Collection[int], signals: Collection[str] = ("latent",)) -> None:
        self._pipe, self._wanted = pipe, frozenset(positions)
        self._layout = LatentLayout(pipe, lambda noise: None)  # refuses what is no image's before the denoiser runs
        self._layers, self._x0, self._gap = activations_of(signals), "x0" in signals, "cfg_gap" in signals
        self._estimates = [signal for signal in estimates_of(signals) if signal != "x0"]
        self._watch: PredictionWatch | None = None
        self._look_ahead: LookAhead | None = None
        self._entered = contextlib.ExitStack()
        self._start()

    def __enter__(self) -> Recorder:
        with contextlib.ExitStack() as entered:
            entered.enter_context(tapped(self._pipe, self._before, self._after))
            entered.enter_context(self._layout)
            if self._estimates:
                self._look_ahead = LookAhead(self._pipe)
                entered.callback(self._look_ahead.close)
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
        self.activations: dict[str, dict[int, torch.Tensor]] = {layer.key: {} for layer in self._layers}
        self.ahead: dict[str, dict[int, torch.Tensor]] = {signal: {} for signal in self._estimates}
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
        if self._look_ahead is not None:
            self._look_ahead.begin_step(step)
            if position in self._wanted:
                for signal, places in self.ahead.items():
                    self._keep(places, position, self._look_ahead.estimate(calls_ahead(signal)))
                if self._watch is not None:
                    self._watch.discard()

    def _after(self, step: Step, latent: torch.Tensor) -> None:
        if not step.is_last:
            return
        steps = step.levels.steps
        self._keep(self.latents, steps, latent)
        self.positions.append(step.levels.at(steps))
        if self._gaps:
            self.cfg_gap = to_host(torch.stack(self._gaps, 1))
        if latent.is_cuda:
            torch.cuda.current_stream(latent.device).synchronize()  # once per run: all copies have arrived

    def _keep(self, latents: dict[int, torch.Tensor], position: int, sample: torch.Tensor) -> None:
        if position in self._wanted:
            latents[position] = to_host(self._layout.chw(sample))


def to_host(values: torch.Tensor) -> torch.Tensor:
    """A copy on the CPU; from a GPU into pinned memory, without waiting for it.

    The copy is queued on the compute stream, so it reads finished values before they are overwritten.
    """
    values = values.detach()
    if not values.is_cuda:
        return values.to("cpu", copy=True)
    return torch.empty_like(values, device="cpu", pin_memory=True).copy_(values, non_blocking=True)
