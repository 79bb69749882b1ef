"""The estimate of the finished latent by further, coarse denoiser steps from a position (arXiv 2501.19252)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch

from ..errors import NbenchError
from .batch_rows import Call
from .denoisers import denoisers
from .noise_levels import NoiseLevels, predicted
from .step_tap import Step

_TIMES: dict[str, Callable[[float], float]] = {
    "t": lambda time: time,
    "t / 1000": lambda time: time / 1000,
    "1 - t / 1000": lambda time: 1 - time / 1000,
}
"""How pipelines tell their denoiser a scheduler's timestep t."""
_OF_THE_STEP = ("residual", "controlnet")
"""Parts of the names of arguments that were computed from the latent of the step itself."""


def coarse_positions(position: int, steps: int, calls: int) -> list[int]:
    """The positions of `calls` denoiser calls from `position` on, evenly spaced over the rest of a run.

    >>> coarse_positions(3, 50, 2), coarse_positions(0, 50, 3), coarse_positions(49, 50, 3)
    ([3, 26], [0, 16, 33], [49])
    """
    calls = min(calls, steps - position)
    return [position + number * (steps - position) // calls for number in range(calls)]


class LookAhead:
    """Calls the denoiser of a running pipeline at later noise levels, as the pipeline itself called it in a step.

    The estimate x0@L takes L calls: at the position, where it is the run's own, and at L - 1 more of the run's later
    noise levels. Between them is a deterministic step of first order: DDIM (arXiv 2010.02502, eta 0), which is Euler's
    method for noise levels as of k-diffusion and for flows. The result is the x0 estimate of the last call: x0@1 is x0.

    Nothing is assumed about the pipeline: each step's arguments are recorded, and its guidance is fitted as a weighted
    sum of the step's predictions. What does not fit is refused, never approximated.

    Raises (on construction, or in `estimate`):
        NbenchError: the pipeline has several denoisers or none, its guidance is no weighted sum with weights that add
            up to one, its denoiser takes more than the scaled latent and the timestep, or its scheduler has no noise
            levels.
    """

    def __init__(self, pipe: Any) -> None:
        models = denoisers(pipe)
        if len(models) != 1:
            raise _refused(f"{type(pipe).__name__} has {len(models)} denoisers")
        (self._model,), self._name = models, type(pipe).__name__
        kind = type(getattr(self._model, "_orig_mod", self._model))
        self._names = list(inspect.signature(kind.forward).parameters)[1:]
        self._calls: list[Call] = []
        self._outputs: list[torch.Tensor] = []
        self._time: str | None = None
        self._own = False
        self._handles = [
            self._model.register_forward_pre_hook(self._called, with_kwargs=True),
            self._model.register_forward_hook(self._answered),
        ]

    def close(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()

    def begin_step(self, step: Step) -> None:
        """At every `scheduler.step` of a run: the calls since the last one are those of this step."""
        self._step, self._step_calls, self._step_outputs = step, self._calls, self._outputs
        self._calls, self._outputs = [], []
        if step.position == 0:
            self._time = self._told_time()

    def estimate(self, calls: int) -> torch.Tensor:
        """x0@calls at the position of the step, float32 and shaped like its sample."""
        step, levels = self._step, self._step.levels
        x0 = levels.x0(step.position, step.sample, step.prediction)
        positions = coarse_positions(step.position, levels.steps, calls)
        if len(positions) == 1:
            return x0
        weights, time = self._guidance(), self._clock()
        latent = step.sample.detach().float()
        for here, there in pairwise(positions):
            latent = _next(levels, here, there, latent, x0)
            sample = latent.to(step.sample.dtype)
            x0 = levels.x0(there, sample, self._predict(sample, there, weights, time))
        return x0

    def _called(self, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        if not self._own:
            self._calls.append((args, kwargs))

    def _answered(self, module: torch.nn.Module, given: Any, output: Any) -> None:
        if not self._own:
            self._outputs.append(_tensor(output))

    def _named(self, call: Call) -> dict[str, Any]:
        return dict(zip(self._names, call[0], strict=False)) | call[1]

    def _guidance(self) -> torch.Tensor:
        """The weight of each prediction of the step in the one that the scheduler got, float32 [1 or 2]."""
        sample, guided = self._step.sample, self._step.prediction
        parts = [part for output in self._step_outputs for part in predicted(output, sample).split(len(sample))]
        whole = all(part.shape == guided.shape for part in parts)
        if not whole or not 1 <= len(parts) <= 2:
            raise _refused(f"{self._name} makes {len(parts)} predictions per step, and one or two are understood")
        columns = torch.stack([part.flatten() for part in parts], 1).double()
        target = guided.flatten().double()
        weights = torch.linalg.lstsq(columns.cpu(), target.cpu()[:, None]).solution[:, 0]
        error = (columns @ weights.to(columns) - target).norm() / target.norm()
        tolerance = _tolerance(guided)
        if not error <= tolerance or abs(abs(float(weights.sum())) - 1) > tolerance:
            raise _refused(f"the guidance of {self._name} is no weighted sum of its predictions (guidance_rescale?)")
        return weights.float()

    def _clock(self) -> Callable[[float], float]:
        """How the denoiser is told the time; checks too that all else it is given of the step is the scaled latent."""
        step, call = self._step, self._step_calls[0]
        arguments = self._named(call)
        at, latent = step.levels.at(step.position), arguments.get(self._names[0])
        expected = (step.sample * at.input_scale).to(latent.dtype) if isinstance(latent, torch.Tensor) else None
        if expected is None or any(
            part.shape != expected.shape
            or not torch.allclose(part, expected, rtol=_tolerance(expected), atol=_tolerance(expected))
            for part in latent.split(len(expected))  # type: ignore[union-attr]
        ):
            raise _refused(f"{self._name} does not give its denoiser the scheduler's latent alone")
        present = (name for name, value in arguments.items() if value is not None)
        if extra := next((name for name in present if any(part in name for part in _OF_THE_STEP)), None):
            raise _refused(f"{self._name} gives its denoiser {extra}, which belongs to one step")
        if self._time is None:
            raise _refused(f"{self._name} tells its denoiser the time in a way that is not understood")
        return _TIMES[self._time]

    def _told_time(self) -> str | None:
        """Which of `_TIMES` the denoiser was told in the first step; None if none, or more than one."""
        timestep = self._step.levels.at(0).timestep
        told = self._named(self._step_calls[0]).get("timestep") if self._step_calls else None
        if timestep is None or told is None:
            return None
        value = float(torch.as_tensor(told).flatten()[0])
        near = [name for name, of in _TIMES.items() if abs(of(timestep) - value) <= 4e-3 * max(1.0, abs(value))]
        return near[0] if len(near) == 1 else None

    def _predict(
        self, latent: torch.Tensor, position: int, weights: torch.Tensor, time: Callable[[float], float]
    ) -> torch.Tensor:
        """The guided prediction for `latent` at `position`."""
        at = self._step.levels.at(position)
        assert at.timestep is not None
        scaled, parts = latent * at.input_scale, list[torch.Tensor]()
        self._own = True
        try:
            for call in self._step_calls:
                first, told = (self._named(call)[name] for name in (self._names[0], "timestep"))
                changed = {
                    self._names[0]: scaled.to(first.dtype).repeat(len(first) // len(scaled), *[1] * (scaled.ndim - 1)),
                    "timestep": _filled(told, time(at.timestep)),
                }
                args, kwargs = call  # each where it was, as pruning knows the batch by its place
                args = tuple(changed.get(name, value) for name, value in zip(self._names, args, strict=False))
                kwargs = {name: changed.get(name, value) for name, value in kwargs.items()}
                output = _tensor(self._model(*args, **kwargs))
                parts += predicted(output, latent).split(len(latent))
        finally:
            self._own = False
        return torch.stack([weight * part.float() for weight, part in zip(weights.tolist(), parts, strict=True)]).sum(0)


def _next(levels: NoiseLevels, here: int, there: int, latent: torch.Tensor, x0: torch.Tensor) -> torch.Tensor:
    """The latent at position `there` from that at `here`: the estimate with the same noise at another level."""
    (signal, noise), (next_signal, next_noise) = levels.scales(here), levels.scales(there)
    return next_signal * x0 + next_noise * (latent - signal * x0) / noise


def _filled(time: Any, value: float) -> Any:
    return torch.full_like(time, value) if isinstance(time, torch.Tensor) else value


def _tensor(output: Any) -> torch.Tensor:
    parts = output.values() if isinstance(output, Mapping) else output
    first = output if isinstance(output, torch.Tensor) else next(iter(parts), None)
    if not isinstance(first, torch.Tensor):
        raise _refused("the denoiser does not return one tensor")
    return first.detach()


def _tolerance(values: torch.Tensor) -> float:
    return 1e-3 if values.dtype in (torch.float32, torch.float64) else 2e-2


def _refused(reason: str) -> NbenchError:
    return NbenchError(f"no look-ahead of several calls here: {reason}; use x0, which takes one call")
