"""The one hook on `scheduler.step`: everything that observes the steps of a run registers here."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import NbenchError
from .noise_levels import NoiseLevels, check_order, predicted
from .replaced_method import replace_method


@dataclass(frozen=True)
class Step:
    """Step k of a run: the latent at position k, and the prediction there, without a variance."""

    position: int
    levels: NoiseLevels
    sample: torch.Tensor
    prediction: torch.Tensor

    @property
    def is_last(self) -> bool:
        """Whether this step returns the finished latent."""
        return self.position == self.levels.steps - 1


Before = Callable[[Step], None]
After = Callable[[Step, torch.Tensor], None]
"""Called with the latent that the step returns."""


@contextlib.contextmanager
def tapped(
    pipe: Any,
    before: Before = lambda step: None,
    after: After = lambda step, latent: None,
) -> Iterator[None]:
    """While entered, `before` and `after` are called at every step of `pipe`. Their exceptions end the run.

    Every diffusers pipeline calls `scheduler.step(model_output, timestep, sample)`. The method is replaced on the
    scheduler instance, once for all listeners, which are called in order of registration.

    Raises (on entering, or at the first step):
        NbenchError: the scheduler does not call the denoiser once per step.
    """
    scheduler = pipe.scheduler
    check_order(scheduler)
    tap = getattr(vars(scheduler).get("step"), "tap", None) or _Tap(pipe)
    listener = (before, after)
    tap.listeners.append(listener)
    try:
        yield
    finally:
        tap.listeners.remove(listener)
        if not tap.listeners:
            tap.close()


@contextlib.contextmanager
def own_noise(pipe: Any, generators: Sequence[torch.Generator]) -> Iterator[None]:
    """While entered, `scheduler.step` draws noise from the candidates' generators, one per row.

    Pipelines such as FLUX and SD3 call `step` without a generator; these are then passed in.

    Raises (in the run):
        NbenchError: the scheduler draws from torch's global generator anyway.
    """
    with tapped(pipe):
        tap: _Tap = pipe.scheduler.step.tap
        outer, tap.generators = tap.generators, list(generators)
        try:
            yield
        finally:
            tap.generators = outer


class _Tap:
    """Replaces a scheduler's `step`; tracks the position of the run."""

    def __init__(self, pipe: Any) -> None:
        self.listeners: list[tuple[Before, After]] = []
        self.generators: list[torch.Generator] | None = None
        self._pipe, self._scheduler = pipe, pipe.scheduler
        self._timesteps: torch.Tensor | None = None
        self._levels: NoiseLevels | None = None
        self._position = 0
        original = self._scheduler.step
        signature = inspect.signature(original)

        # pipelines inspect the signature of `step` for a generator: wraps keeps the real one
        @functools.wraps(original)
        def step(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            call = bound.arguments
            current = self._next(call["model_output"], call["timestep"], call["sample"])
            if self.generators is not None and "generator" in signature.parameters and call.get("generator") is None:
                call["generator"] = self.generators
            for before, _ in tuple(self.listeners):
                before(current)
            with contextlib.nullcontext() if self.generators is None else self._no_global_noise(current.sample):
                result = original(*bound.args, **bound.kwargs)
            for _, after in tuple(self.listeners):
                after(current, result[0])
            return result

        step.tap = self  # type: ignore[attr-defined]
        self._step = step
        self._restore = replace_method(self._scheduler, "step", step)

    def close(self) -> None:
        """Restore the scheduler, unless other code has replaced `step` meanwhile."""
        if vars(self._scheduler).get("step") is self._step:
            self._restore()

    @contextlib.contextmanager
    def _no_global_noise(self, sample: torch.Tensor) -> Iterator[None]:
        generators = [torch.default_generator]
        if sample.is_cuda:
            generators.append(torch.cuda.default_generators[sample.device.index])
        before = [generator.get_state() for generator in generators]
        yield
        if not all(torch.equal(state, each.get_state()) for state, each in zip(before, generators, strict=True)):
            raise NbenchError(
                f"{type(self._scheduler).__name__} draws noise without the candidate's seed: use another scheduler"
            )

    def _next(self, prediction: torch.Tensor, timestep: Any, sample: torch.Tensor) -> Step:
        timesteps = self._scheduler.timesteps
        # every run sets new ones; comparing values, or reading a sigma, would wait for the GPU at each step
        if self._levels is None or timesteps is not self._timesteps or self._position == self._levels.steps:
            self._timesteps, self._position = timesteps, 0
            # modern pipelines state the steps of their run, which may be fewer than the scheduler's
            steps = getattr(self._pipe, "_num_timesteps", None)
            first = float(torch.as_tensor(timestep).flatten()[0])
            self._levels = NoiseLevels(self._scheduler, first, steps)
        step = Step(self._position, self._levels, sample, predicted(prediction, sample))
        self._position += 1
        return step
