"""Tells what a running pipeline knows at each position, as soon as it is known."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ..shards.schema import PositionInfo
from ..shards.signals import activations_of
from .batch_rows import scatter
from .latent_layout import LatentLayout
from .noise_levels import estimate_x0
from .predictions import PredictionWatch
from .recorder import Recorder

Known = Callable[[], torch.Tensor]
"""What is read of all B rows, on the pipeline's device; computed when asked for."""
Seen = Callable[[int, torch.Tensor, Mapping[int, Known]], None]
"""Told a position, the latents [B, C, h, w] there, and what has become known, by the position it is of. What it raises
ends the run."""


class Watch:
    """While entered, calls `seen` at every position k > 0 of a run: after step k-1, and before step k.

    Around the scheduler's `step`, as the Recorder: any diffusers pipeline, which stays stock. What is known at k: the
    latent there and the guidance gaps [B, k] of the steps before it; of position k-1 the x0 estimates [B, C, h, w] and
    the activations [B, D] that step k-1 has made; at T the finished latent in place of an estimate too.

    Args:
        begin: told the noise [B, C, h, w] of each run before its first step; says what is to be read, as
            `scorers.protocols.READS` has it, activations with their width if they are projected.
        computed: the rows that the denoiser computes at a step, of the B; None: all.

    Attributes:
        steps: T of the run under way, None before one.

    Raises (on entering, or in the run):
        NbenchError: the scheduler does not call the denoiser once a step, or the denoiser has no such layer or gap.
    """

    def __init__(
        self,
        pipe: Any,
        begin: Callable[[torch.Tensor], str],
        seen: Seen,
        computed: Callable[[], Sequence[int]] | None = None,
    ) -> None:
        self._pipe, self._scheduler = pipe, pipe.scheduler
        self._recorder = Recorder(pipe, ())
        self._layout = LatentLayout(pipe, self._begun)
        self._begin, self._seen, self._computed = begin, seen, computed
        self._reads: str = "nothing"
        self._predictions: PredictionWatch | None = None
        self._gaps: list[torch.Tensor] = []
        self._activations = torch.empty(0)
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
            position = min(len(self._recorder.positions), self.steps)  # the last step adds two
            given = signature.bind(*args, **kwargs).arguments
            if self._predictions is not None:
                self._take(self._predictions, given["model_output"])
            latents = self._layout.chw(result[0]).detach()
            self._seen(position, latents, self._known(position, latents, given))
            return result

        self._scheduler.step = step
        return self

    def __exit__(self, *exception: object) -> None:
        self._unhook()
        self._layout.__exit__()
        self._scheduler.step = self._outer
        self._recorder.__exit__(*exception)

    def _begun(self, noise: torch.Tensor) -> None:
        self._unhook()  # with what a run that was broken off has left
        self._reads = self._begin(noise)
        layers = activations_of([self._reads])
        if layers or self._reads == "cfg_gap":
            self._predictions, self._gaps = PredictionWatch(self._pipe, layers), []

    def _unhook(self) -> None:
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

    def _known(self, position: int, latents: torch.Tensor, given: Mapping[str, Any]) -> dict[int, Known]:
        def estimate() -> torch.Tensor:
            timestep = self.at(position - 1).timestep
            assert timestep is not None
            x0 = estimate_x0(self._scheduler, position - 1, timestep, given["sample"], given["model_output"])
            return self._layout.chw(x0)

        kind = self._reads.partition(":")[0]
        if kind == "cfg_gap":
            return {position: lambda: torch.stack(self._gaps, 1)}
        if kind == "activations":
            return {position - 1: lambda: self._activations}
        if kind.startswith("x0"):
            return {position - 1: estimate} | ({position: lambda: latents} if position == self.steps else {})
        return {} if kind == "image" else {position: lambda: latents}
