"""All who listen to a scheduler's steps share one replaced method, and leave the scheduler as it was."""

from __future__ import annotations

import functools
import inspect
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch

from nbench.errors import NbenchError
from nbench.pipelines.noise_levels import run_positions
from nbench.pipelines.step_tap import Step, tapped

STEPS = 4


@pytest.fixture
def pipe() -> Any:
    return SimpleNamespace(scheduler=diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear"))


def run(pipe: Any, first: int = 0, last: int | None = None) -> list[torch.Tensor]:
    """The latents of a run as a pipeline makes it, some steps at either end left out: all but the noise."""
    pipe.scheduler.set_timesteps(STEPS)
    pipe.scheduler.set_begin_index(first)
    latents = [torch.ones(1, 1, 2, 2)]
    for timestep in pipe.scheduler.timesteps[first:last]:
        latents.append(pipe.scheduler.step(torch.ones(1, 1, 2, 2), timestep, latents[-1], return_dict=False)[0])
    return latents[1:]


def test_all_who_listen_hear_every_step_in_the_order_in_which_they_came(pipe: Any) -> None:
    heard: list[tuple[str, int]] = []
    returned: list[torch.Tensor] = []

    def listen(name: str) -> Any:
        def after(step: Step, latent: torch.Tensor) -> None:
            heard.append((f"{name} after", step.position))
            returned.append(latent)

        return tapped(pipe, lambda step: heard.append((f"{name} before", step.position)), after)

    with listen("a"), listen("b"):
        latents = run(pipe)
    names = ["a before", "b before", "a after", "b after"]
    assert heard == [(name, k) for k in range(STEPS) for name in names]
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(returned[::2], latents, strict=True))


def test_it_replaces_step_once_and_shows_the_signature_of_the_real_one(pipe: Any) -> None:
    signature = inspect.signature(pipe.scheduler.step)
    with tapped(pipe):
        replaced = pipe.scheduler.step
        with tapped(pipe):
            assert pipe.scheduler.step is replaced
        assert pipe.scheduler.step is replaced  # the outer one still listens
        assert inspect.signature(pipe.scheduler.step) == signature
    assert "step" not in vars(pipe.scheduler)


def test_the_outer_one_may_leave_first(pipe: Any) -> None:
    heard: list[int] = []
    outer, inner = tapped(pipe), tapped(pipe, lambda step: heard.append(step.position))
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    run(pipe)
    assert heard == list(range(STEPS))
    inner.__exit__(None, None, None)
    assert "step" not in vars(pipe.scheduler)


def test_what_was_there_before_comes_back_also_after_an_error(pipe: Any) -> None:
    stock, calls = pipe.scheduler.step, list[float]()

    @functools.wraps(stock)
    def mine(*args: Any, **kwargs: Any) -> Any:
        calls.append(float(args[1]))
        return stock(*args, **kwargs)

    def fails(step: Step) -> None:
        if step.position == 2:
            raise ZeroDivisionError

    pipe.scheduler.step = mine
    with pytest.raises(ZeroDivisionError), tapped(pipe, fails):
        run(pipe)
    assert pipe.scheduler.step is mine
    assert len(calls) == 2
    heard: list[int] = []
    with tapped(pipe, lambda step: heard.append(step.position)):
        run(pipe)  # a run that was broken off leaves no trace
    assert heard == list(range(STEPS))


def test_a_method_put_on_top_meanwhile_stays(pipe: Any) -> None:
    with tapped(pipe):
        below = pipe.scheduler.step
        pipe.scheduler.step = top = lambda *args, **kwargs: below(*args, **kwargs)
    assert pipe.scheduler.step is top
    assert len(run(pipe)) == STEPS


def test_every_call_is_a_run_of_its_own(pipe: Any) -> None:
    heard: list[int] = []
    with tapped(pipe, lambda step: heard.append(step.position)):
        run(pipe)
        run(pipe, last=2)
        run(pipe)
    assert heard == [0, 1, 2, 3, 0, 1, 0, 1, 2, 3]


def test_a_run_that_begins_later_and_ends_earlier(pipe: Any) -> None:
    """Image-to-image begins in the middle of the schedule; `denoising_end` stops before its end."""
    pipe.scheduler.set_timesteps(STEPS)
    whole = run_positions(pipe.scheduler)
    pipe._num_timesteps = 2  # as pipelines say themselves
    steps: list[Step] = []
    with tapped(pipe, steps.append):
        run(pipe, first=1, last=3)
    positions = [steps[0].levels.at(k) for k in range(3)]
    assert [step.is_last for step in steps] == [False, True]
    for here, there in zip(positions[:2], whole[1:3], strict=True):
        assert (here.timestep, here.sigma, here.input_scale) == (there.timestep, there.sigma, there.input_scale)
    assert (positions[2].timestep, positions[2].sigma) == (None, whole[3].sigma)  # what is left of the noise


@pytest.mark.parametrize("name", ["Heun", "KDPM2"])
def test_schedulers_of_second_order_are_refused(pipe: Any, name: str) -> None:
    pipe.scheduler = getattr(diffusers, f"{name}DiscreteScheduler").from_config(pipe.scheduler.config)
    with pytest.raises(NbenchError, match=f"{name}DiscreteScheduler does not call the denoiser once"), tapped(pipe):
        pass
    assert "step" not in vars(pipe.scheduler)
