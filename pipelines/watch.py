"""Tells what a running pipeline knows at each position, as soon as it is known."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from ..shards.schema import PositionInfo
from ..shards.signals import activations_of
from .batch_rows import scatter, tensors_in
from .denoisers import denoisers
from .latent_layout import LatentLayout, check_prepares
from .look_ahead import LookAhead
from .noise_levels import NoiseLevels
from .predictions import PredictionWatch
from .step_tap import Step, tapped

Known = Callable[[], torch.Tensor]
"""What is read of all B rows, on the pipeline's device; computed when asked for."""
Seen = Callable[[int, torch.Tensor, Mapping[int, Known]], None]
"""Told a position, the latents [B, C, h, w] there, and what has become known, by the position it is of. What it raises
ends the run."""


class Watch:
    """While entered, calls `seen` at every position k > 0 of a run: after step k-1, and before step k.

    The pipeline stays stock. What is known at k: the latent there and the guidance gaps [B, k] of the steps before it;
    of position k-1 the x0 estimates [B, C, h, w] and the activations [B, D] that step k-1 has made; at T the finished
    latent in place of an estimate too. An estimate x0@L makes its L - 1 further denoiser calls when it is asked for.

    Args:
        begin: told the noise [B, C, h, w] of each run before its first step; says what is to be read, as
            `scorers.protocols.READS` has it, activations with their width if they are projected.
        computed: the rows that the denoiser computes at a step, of the B; None: all.
        noise: whether position 0 is told too, before the first call of the denoiser: latents, or their previews, only.

    Raises (on entering, or in the run):
        NbenchError: the pipeline is made of several, its scheduler does not call the denoiser once a step, or the
            denoiser has no such layer or gap.
    """

    def __init__(
        self,
        pipe: Any,
        begin: Callable[[torch.Tensor], str],
        seen: Seen,
        computed: Callable[[], Sequence[int]] | None = None,
        noise: Callable[[], bool] = lambda: False,
    ) -> None:
        self._pipe, self._noise = pipe, noise
        self._first_calls: list[Any] = []  # handles of hooks
        self._layout = LatentLayout(pipe, self._begun)
        self._begin, self._seen, self._computed = begin, seen, computed
        self._reads: str = "nothing"
        self._predictions: PredictionWatch | None = None
        self._look_ahead: LookAhead | None = None
        self._gaps: list[torch.Tensor] = []
        self._activations = torch.empty(0)
        self._latent = torch.empty(0)
        self._entered = contextlib.ExitStack()
        self._levels: NoiseLevels | None = None

    @property
    def steps(self) -> int | None:
        """T of the run under way, None before one."""
        return None if self._levels is None else self._levels.steps

    def at(self, position: int) -> PositionInfo:
        """What the scheduler says of a position of the run under way."""
        assert self._levels is not None
        return self._levels.at(position)

    def copy(self, sources: Mapping[int, int]) -> None:
        """In `seen`: the run goes on with the latents of other rows in these rows, by row, and with what the scheduler
        keeps of them: multistep ones keep earlier predictions."""
        rows, others = list(sources), list(sources.values())
        for values in (self._latent, *tensors_in(vars(self._pipe.scheduler))):
            if values.ndim > 1 and len(values) == len(self._latent):  # sigmas and timesteps have one axis
                values[rows] = values[others]

    def __enter__(self) -> Watch:
        check_prepares(self._pipe)
        with contextlib.ExitStack() as entered:
            entered.enter_context(tapped(self._pipe, after=self._after))
            entered.enter_context(self._layout)
            entered.callback(self._unhook)
            self._entered = entered.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._entered.close()

    def _after(self, step: Step, latent: torch.Tensor) -> None:
        self._levels = step.levels
        if self._predictions is not None:
            self._take(self._predictions, step.prediction)
        if self._look_ahead is not None:
            self._look_ahead.begin_step(step)
        self._latent = latent
        latents = self._layout.chw(latent).detach()
        self._seen(step.position + 1, latents, self._known(step, latents))

    def _begun(self, noise: torch.Tensor) -> None:
        self._unhook()  # with what a run that was broken off has left
        self._reads = self._begin(noise)
        layers = activations_of([self._reads])
        if layers or self._reads == "cfg_gap":
            self._predictions, self._gaps = PredictionWatch(self._pipe, layers), []
        if self._calls_ahead > 1:
            self._look_ahead = LookAhead(self._pipe)
        if self._noise():
            called = partial(self._first_call, noise)
            self._first_calls = [module.register_forward_pre_hook(called) for module in denoisers(self._pipe)]

    def _first_call(self, noise: torch.Tensor, *call: Any) -> None:
        self._remove_first_calls()
        scheduler = self._pipe.scheduler  # the pipeline has set its timesteps by now
        first = scheduler.timesteps[getattr(scheduler, "begin_index", None) or 0]
        self._levels = NoiseLevels(scheduler, float(first), getattr(self._pipe, "_num_timesteps", None))
        self._seen(0, noise, {0: lambda: noise})

    def _remove_first_calls(self) -> None:
        while self._first_calls:
            self._first_calls.pop().remove()

    @property
    def _calls_ahead(self) -> int:
        """L of x0@L, x0_preview@L and x0_image@L; 1 of what takes no look-ahead."""
        return int(self._reads.partition("@")[2] or 1)

    def _unhook(self) -> None:
        self._remove_first_calls()
        if self._look_ahead is not None:
            self._look_ahead.close()
            self._look_ahead = None
        if self._predictions is not None:
            self._predictions.close()
            self._predictions = None

    def _take(self, predictions: PredictionWatch, guided: torch.Tensor) -> None:
        count = len(guided)
        rows = range(count) if self._computed is None else self._computed()
        gap, pooled = predictions.take(guided, count, self._reads == "cfg_gap", len(rows))
        if gap is not None:
            self._gaps.append(gap)
        for values in pooled.values():
            self._activations = scatter(values, rows, count)

    def _known(self, step: Step, latents: torch.Tensor) -> dict[int, Known]:
        def estimate() -> torch.Tensor:
            if self._look_ahead is not None:
                return self._layout.chw(self._look_ahead.estimate(self._calls_ahead))
            return self._layout.chw(step.levels.x0(step.position, step.sample, step.prediction))

        kind, reached = self._reads.partition(":")[0], step.position + 1
        if kind == "cfg_gap":
            return {reached: lambda: torch.stack(self._gaps, 1)}
        if kind in ("activations", "attention"):
            return {step.position: lambda: self._activations}
        if kind.startswith("x0"):
            return {step.position: estimate} | ({reached: lambda: latents} if step.is_last else {})
        return {} if kind == "image" else {reached: lambda: latents}
