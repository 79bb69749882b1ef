"""The one tap on `scheduler.step`: whoever wants to see the steps of a run listens here."""

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


@dataclass(frozen=True)
class Step:
    """Step k of a run: the latent of position k, and what is predicted there, without a variance."""

    position: int
    levels: NoiseLevels
    sample: torch.Tensor
    prediction: torch.Tensor

    @property
    def is_last(self) -> bool:
        """Whether it returns the finished latent."""
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
    """While entered, `before` and `after` hear every step of the runs of `pipe`. What they raise ends the run.

    Every diffusers pipeline calls `scheduler.step(model_output, timestep, sample)`. The method is replaced on the
    scheduler's instance, once for all who listen at a time; those who came first hear first.

    Raises (on entering, or at the first step):
        NbenchError: the scheduler does not call the denoiser once a step.
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
    """While entered, noise that `scheduler.step` draws comes from the candidates' generators, one for each row.

    Pipelines such as FLUX and SD3 call `step` without a generator: their schedulers are given these.

    Raises (in the run):
        NbenchError: the scheduler draws from torch's global generator all the same.
    """
    with tapped(pipe):
        tap: _Tap = pipe.scheduler.step.tap
        outer, tap.generators = tap.generators, list(generators)
        try:
            yield
        finally:
            tap.generators = outer


class _Tap:
    """In the place of a scheduler's `step`; knows where in its run a pipeline is."""

    def __init__(self, pipe: Any) -> None:
        self.listeners: list[tuple[Before, After]] = []
        self.generators: list[torch.Generator] | None = None
        self._pipe, self._scheduler = pipe, pipe.scheduler
        self._timesteps: torch.Tensor | None = None
        self._levels: NoiseLevels | None = None
        self._position = 0
        self._outer = vars(self._scheduler).get("step")
        original = self._scheduler.step
        signature = inspect.signature(original)

        # pipelines look at the signature of `step` to see whether it takes a generator: wraps shows them the real one
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
        self._scheduler.step = step

    def close(self) -> None:
        """Leave the scheduler as it was, unless somebody else has replaced `step` meanwhile."""
        if vars(self._scheduler).get("step") is self._step:
            del self._scheduler.step  # the instance's attribute: the class's method shows again
            if self._outer is not None:
                self._scheduler.step = self._outer

    @contextlib.contextmanager
    def _no_global_noise(self, sample: torch.Tensor) -> Iterator[None]:
        generators = [torch.default_generator]
        if sample.is_cuda:
            generators.append(torch.cuda.default_generators[sample.device.index])
        before = [generator.get_state() for generator in generators]
        yield
        if not all(torch.equal(state, each.get_state()) for state, each in zip(before, generators, strict=True)):
            raise NbenchError(
                f"{type(self._scheduler).__name__} draws noise that no candidate's seed decides: use another scheduler"
            )

    def _next(self, prediction: torch.Tensor, timestep: Any, sample: torch.Tensor) -> Step:
        timesteps = self._scheduler.timesteps
        # every run sets them anew; to compare their values, or look at a sigma, would wait for the GPU at each step
        if self._levels is None or timesteps is not self._timesteps or self._position == self._levels.steps:
            self._timesteps, self._position = timesteps, 0
            # modern pipelines say how many steps their run makes, which may be fewer than the scheduler has
            steps = getattr(self._pipe, "_num_timesteps", None)
            first = float(torch.as_tensor(timestep).flatten()[0])
            self._levels = NoiseLevels(self._scheduler, first, steps)
        step = Step(self._position, self._levels, sample, predicted(prediction, sample))
        self._position += 1
        return step
