"""The recorder sees the inputs of the denoiser."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from nbench.errors import NbenchError
from nbench.pipelines.find import load_pipeline, resolve_pipeline
from nbench.pipelines.recorder import Recorder

PROMPTS = ["two red circles on gray background", "one blue square on white background"]
STEPS = 5


@pytest.fixture
def sd15(sd15_folder: Path) -> Any:
    return load_pipeline(resolve_pipeline(str(sd15_folder)), "float32", "cpu")


def run(pipe: Any, prompts: list[str] = PROMPTS, **arguments: Any) -> tuple[Recorder, list[torch.Tensor], torch.Tensor]:
    """Run the pipeline under a recorder of all positions and a hook on its denoiser: (recorder, inputs, finished)."""
    denoiser, inputs = getattr(pipe, "unet", None) or pipe.transformer, []

    def hook(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs.append((args[0] if args else kwargs["hidden_states"])[: len(prompts)].clone())

    handle = denoiser.register_forward_pre_hook(hook, with_kwargs=True)
    generators = [torch.Generator().manual_seed(i) for i in range(len(prompts))]
    call = dict(prompt=prompts, num_inference_steps=STEPS, generator=generators, output_type="latent", **arguments)
    try:
        with Recorder(pipe, range(STEPS + 1)) as recorder:
            finished = pipe(**call).images
    finally:
        handle.remove()
    return recorder, inputs, finished


def assert_matches(recorder: Recorder, inputs: list[torch.Tensor], finished: torch.Tensor) -> None:
    """Every position is the denoiser's input over the scheduler's scale; the last one is what the pipeline returns."""
    assert len(inputs) == STEPS
    assert sorted(recorder.latents) == list(range(STEPS + 1))
    for k, latent in enumerate(inputs):
        assert torch.allclose(recorder.latents[k], latent / recorder.positions[k].input_scale, atol=1e-5, rtol=1e-5)
    assert torch.equal(recorder.latents[STEPS], finished)
    assert [info.position for info in recorder.positions] == list(range(STEPS + 1))
    assert (recorder.positions[STEPS].timestep, recorder.positions[STEPS].sigma) == (None, 0.0)


def test_embedded_pipeline(world: Any) -> None:
    entry = resolve_pipeline("shapes")
    recorder, inputs, finished = run(world, guidance_scale=entry.guidance, **entry.call_kwargs)
    assert_matches(recorder, inputs, finished)
    assert [info.input_scale for info in recorder.positions] == [1.0] * (STEPS + 1)
    sigmas = [info.sigma for info in recorder.positions if info.sigma is not None]
    assert len(sigmas) == STEPS + 1
    assert sigmas[0] == pytest.approx(1, abs=1e-6)
    assert sigmas == sorted(sigmas, reverse=True)


@pytest.mark.parametrize("name", ["Euler", "EulerAncestral", "LMS"])
def test_schedulers_that_scale(sd15: Any, name: str) -> None:
    sd15.scheduler = getattr(diffusers, f"{name}DiscreteScheduler").from_config(sd15.scheduler.config)
    recorder, inputs, finished = run(sd15)
    assert_matches(recorder, inputs, finished)
    for info in recorder.positions[:STEPS]:
        assert info.sigma is not None
        assert info.input_scale == pytest.approx(1 / math.sqrt(info.sigma**2 + 1), rel=1e-5)
    assert recorder.positions[0].input_scale < 0.2


@pytest.mark.parametrize("name", ["DDIM", "DDPM", "DPMSolverMultistep"])
def test_schedulers_that_do_not_scale(sd15: Any, name: str) -> None:
    sd15.scheduler = getattr(diffusers, f"{name}Scheduler").from_config(sd15.scheduler.config)
    recorder, inputs, finished = run(sd15)
    assert_matches(recorder, inputs, finished)
    for info in recorder.positions[:STEPS]:
        alpha = float(sd15.scheduler.alphas_cumprod[int(info.timestep or 0)])
        assert info.input_scale == 1.0
        assert info.sigma == pytest.approx(math.sqrt((1 - alpha) / alpha), rel=1e-3)


def test_only_wanted_positions_are_kept_and_a_second_call_starts_over(sd15: Any) -> None:
    with Recorder(sd15, [2, STEPS]) as recorder:
        for seed in (0, 1):
            generator = torch.Generator().manual_seed(seed)
            out = sd15(PROMPTS[:1], num_inference_steps=STEPS, generator=generator, output_type="latent").images
            assert list(recorder.latents) == [2, STEPS]
            assert len(recorder.positions) == STEPS + 1
            assert torch.equal(recorder.latents[STEPS], out)


def test_the_scheduler_is_restored_also_after_an_error(sd15: Any) -> None:
    with pytest.raises(ZeroDivisionError), Recorder(sd15, [0]):
        raise ZeroDivisionError
    assert "step" not in vars(sd15.scheduler)


@pytest.mark.parametrize("name", ["Heun", "KDPM2"])
def test_second_order_is_refused(sd15: Any, name: str) -> None:
    sd15.scheduler = getattr(diffusers, f"{name}DiscreteScheduler").from_config(sd15.scheduler.config)
    with pytest.raises(NbenchError, match=f"{name}DiscreteScheduler does not call the denoiser once per step"):
        Recorder(sd15, [0]).__enter__()


def test_one_call_too_many_is_refused(sd15: Any) -> None:
    sd15.scheduler = diffusers.PNDMScheduler.from_config(sd15.scheduler.config, skip_prk_steps=True)
    with pytest.raises(NbenchError, match="PNDMScheduler"):
        run(sd15)
