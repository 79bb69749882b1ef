"""What is said of a scheduler's positions is what stock schedulers do: x0 estimates, latents and scales."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch

from nbench.errors import NbenchError
from nbench.pipelines.noise_levels import NoiseLevels, is_flow
from nbench.pipelines.recorder import Recorder

STEPS = 6
KINDS = ["epsilon", "v_prediction", "sample"]
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def scheduler_of(name: str, **config: Any) -> Any:
    scheduler = getattr(diffusers, f"{name}Scheduler")(**config)
    scheduler.set_timesteps(STEPS)
    return scheduler


def run(scheduler: Any, own: Any) -> tuple[Recorder, list[torch.Tensor]]:
    """Random predictions through a scheduler: the recorder, and what `own` gives of the scheduler at each step."""
    rng, estimates = torch.Generator().manual_seed(0), list[torch.Tensor]()
    sample = torch.randn(2, 4, 4, 4, generator=rng) * float(getattr(scheduler, "init_noise_sigma", 1))
    with Recorder(SimpleNamespace(scheduler=scheduler), range(STEPS + 1), ("latent", "x0")) as recorder:
        for timestep in scheduler.timesteps:
            scheduler.scale_model_input(sample, timestep) if hasattr(scheduler, "scale_model_input") else None
            prediction = torch.randn(sample.shape, generator=rng)
            result = own(scheduler, prediction, timestep, sample)
            estimates.append(result[1].clone())
            sample = result[0]
    assert sorted(recorder.x0) == list(range(STEPS))  # at T it is the finished latent
    return recorder, estimates


def by_step(scheduler: Any, prediction: torch.Tensor, timestep: Any, sample: torch.Tensor) -> Any:
    return scheduler.step(prediction, timestep, sample, return_dict=False)[:2]


def by_conversion(scheduler: Any, prediction: torch.Tensor, timestep: Any, sample: torch.Tensor) -> Any:
    """Multistep solvers convert what is predicted to x0 themselves, at the first step after setting their index."""
    next_sample = scheduler.step(prediction, timestep, sample, return_dict=False)[0]
    scheduler._step_index -= 1
    x0 = scheduler.convert_model_output(prediction, sample=sample)
    scheduler._step_index += 1
    return next_sample, x0


def assert_same(recorder: Recorder, estimates: list[torch.Tensor]) -> None:
    for k, x0 in enumerate(estimates):
        torch.testing.assert_close(recorder.x0[k], x0.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, kind) for name in ("DDIM", "DDPM", "EulerDiscrete") for kind in KINDS),
        *((name, kind) for name in ("EulerAncestralDiscrete", "LMSDiscrete") for kind in KINDS[:2]),  # know no others
    ],
)
def test_it_is_the_schedulers_own(name: str, kind: str) -> None:
    assert_same(*run(scheduler_of(name, prediction_type=kind, **BETAS), by_step))


@pytest.mark.parametrize("bound", [{"clip_sample": True, "clip_sample_range": 2.0}, {"clip_sample": False}])
@pytest.mark.parametrize("name", ["DDIM", "DDPM"])
def test_what_is_clipped_there_is_clipped_here(name: str, bound: dict[str, Any]) -> None:
    assert_same(*run(scheduler_of(name, **bound, **BETAS), by_step))


def test_thresholding() -> None:
    assert_same(*run(scheduler_of("DDIM", thresholding=True, sample_max_value=3.0, **BETAS), by_step))


@pytest.mark.parametrize(
    ("name", "config"),
    [
        *(("DPMSolverMultistep", {"prediction_type": kind, **BETAS}) for kind in KINDS),
        *(("UniPCMultistep", {"prediction_type": kind, **BETAS}) for kind in KINDS),
        ("DPMSolverMultistep", {"use_karras_sigmas": True, **BETAS}),
        ("DPMSolverMultistep", {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 0.35}),
        ("UniPCMultistep", {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}),
        ("DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++", **BETAS}),
    ],
)
def test_multistep_solvers(name: str, config: dict[str, Any]) -> None:
    assert_same(*run(scheduler_of(name, **config), by_conversion))


def test_flow_matching() -> None:
    """SD3 and FLUX: latent = (1 - sigma) x0 + sigma noise, predicted velocity = noise - x0."""

    def own(scheduler: Any, prediction: torch.Tensor, timestep: Any, sample: torch.Tensor) -> Any:
        sigma = timestep / scheduler.config.num_train_timesteps
        return scheduler.step(prediction, timestep, sample, return_dict=False)[0], sample - sigma * prediction

    assert_same(*run(scheduler_of("FlowMatchEulerDiscrete", shift=3.0), own))


def test_edm() -> None:
    """c_skip latent + c_out prediction of arXiv 2206.00364, table 1, sigma_data 0.5."""

    def own(scheduler: Any, prediction: torch.Tensor, timestep: Any, sample: torch.Tensor) -> Any:
        index = int((scheduler.timesteps == timestep).nonzero()[0])
        sigma, data = float(scheduler.sigmas[index]), 0.5
        x0 = sample * data**2 / (sigma**2 + data**2) + prediction * sigma * data / (sigma**2 + data**2) ** 0.5
        return scheduler.step(prediction, timestep, sample, return_dict=False)[0], x0

    assert_same(*run(scheduler_of("EDMEuler"), own))


def test_a_known_truth_is_found_in_every_space() -> None:
    """A denoiser that knows x0 and the noise: the estimate is x0, wherever the latent stands."""
    rng = torch.Generator().manual_seed(1)
    x0, noise = torch.randn(1, 4, 4, 4, generator=rng), torch.randn(1, 4, 4, 4, generator=rng)
    for name in ("DDIM", "EulerDiscrete", "DPMSolverMultistep"):
        clip = {"clip_sample": False} if name == "DDIM" else {}
        scheduler = scheduler_of(name, **clip, **BETAS)
        kept = scheduler.alphas_cumprod[scheduler.timesteps.long()]
        with Recorder(SimpleNamespace(scheduler=scheduler), [0], ("x0",)) as recorder:
            scale = scheduler.sigmas[0] if name == "EulerDiscrete" else None
            sample = x0 + scale * noise if scale is not None else kept[0] ** 0.5 * x0 + (1 - kept[0]) ** 0.5 * noise
            scheduler.step(noise, scheduler.timesteps[0], sample)
        torch.testing.assert_close(recorder.x0[0], x0, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["IPNDM", "CMStochasticIterative"])
def test_schedulers_without_a_known_estimate_are_refused(name: str) -> None:
    scheduler = scheduler_of(name)
    with (
        pytest.raises(NbenchError, match=f"{name}Scheduler with .*: leave x0 out of --signals"),
        Recorder(SimpleNamespace(scheduler=scheduler), [0], ("x0",)),
    ):
        scheduler.step(torch.zeros(1, 4, 4, 4), scheduler.timesteps[0], torch.zeros(1, 4, 4, 4))


def true_prediction(scheduler: Any, noise: torch.Tensor, x0: torch.Tensor) -> torch.Tensor:
    """What a denoiser that knows the truth predicts."""
    kind = scheduler.config.get("prediction_type", "flow_prediction")
    if kind == "flow_prediction":
        return x0 - noise if scheduler.config.get("invert_sigmas") else noise - x0
    return noise


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("DDIM", {"clip_sample": False, **BETAS}),
        ("DDIM", {"clip_sample": False, "set_alpha_to_one": False, **BETAS}),
        ("EulerDiscrete", BETAS),
        ("EulerDiscrete", {"final_sigmas_type": "sigma_min", **BETAS}),
        ("DPMSolverMultistep", {"final_sigmas_type": "sigma_min", **BETAS}),
        ("DPMSolverMultistep", {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}),
        ("UniPCMultistep", BETAS),
        ("FlowMatchEulerDiscrete", {"shift": 3.0}),
        ("FlowMatchEulerDiscrete", {"shift": 3.0, "invert_sigmas": True}),
        ("FlowMapEulerDiscrete", {}),
    ],
)
def test_scales_are_those_of_the_latents_that_a_stock_run_passes(name: str, config: dict[str, Any]) -> None:
    """Of a denoiser that knows x0 and the noise, each latent is signal x0 + noise eps, to the last; and x0 is found."""
    rng = torch.Generator().manual_seed(1)
    x0, noise = torch.randn(1, 4, 4, 4, generator=rng), torch.randn(1, 4, 4, 4, generator=rng)
    scheduler = scheduler_of(name, **config)
    levels = NoiseLevels(scheduler)
    assert levels.steps == STEPS
    signal, added = levels.scales(0)
    latent = signal * x0 + added * noise
    for k, timestep in enumerate(scheduler.timesteps):
        signal, added = levels.scales(k)
        torch.testing.assert_close(latent, signal * x0 + added * noise, rtol=1e-3, atol=2e-3)
        prediction = true_prediction(scheduler, noise, x0)
        torch.testing.assert_close(levels.x0(k, latent, prediction), x0, rtol=1e-3, atol=5e-3)
        latent = scheduler.step(prediction, timestep, latent, return_dict=False)[0]
    sigma = levels.at(STEPS).sigma
    assert sigma is not None
    if config.get("invert_sigmas"):
        expected = x0
    elif name in ("DDIM", "DPMSolverMultistep") and "prediction_type" not in config:  # of unit variance
        expected = (x0 + sigma * noise) / (1 + sigma**2) ** 0.5
    else:
        expected = x0 + sigma * noise
    torch.testing.assert_close(latent, expected, rtol=1e-3, atol=1e-3)
    assert (sigma > 0) == bool({"set_alpha_to_one", "final_sigmas_type", "invert_sigmas"} & config.keys())


@pytest.mark.parametrize("name", ["EulerDiscrete", "EulerAncestralDiscrete", "LMSDiscrete", "DDPM", "EDMEuler"])
@pytest.mark.parametrize("begin", [0, 2])
def test_positions_are_what_the_scheduler_does_at_each_step(name: str, begin: int) -> None:
    """From the middle of the schedule, too, as image-to-image runs it. The scheduler itself is not changed."""
    scheduler = scheduler_of(name, **({} if name == "EDMEuler" else BETAS))
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    before = dict(vars(scheduler))
    positions = NoiseLevels(scheduler, float(scheduler.timesteps[begin])).positions
    assert vars(scheduler) == before
    assert [place.position for place in positions] == list(range(STEPS - begin + 1))
    ones = torch.ones(1, 1, 1, 1)
    for place, timestep in zip(positions, scheduler.timesteps[begin:], strict=False):
        assert place.timestep == float(timestep)
        assert place.input_scale == float(scheduler.scale_model_input(ones, timestep))
        if name != "DDPM":
            assert place.sigma == float(scheduler.sigmas[scheduler.step_index])
        scheduler.step(ones, timestep, ones)


def test_zero_terminal_snr() -> None:
    """No signal is left at the first step: sigma is infinite, and predicted noise tells nothing of x0."""
    config = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "clip_sample": False, **BETAS}
    levels = NoiseLevels(scheduler_of("DDIM", prediction_type="v_prediction", **config))
    assert levels.at(0).sigma is None
    assert levels.at(1).sigma is not None
    assert levels.scales(0) == (0.0, 1.0)
    assert_same(*run(scheduler_of("DDIM", prediction_type="v_prediction", **config), by_step))
    with pytest.raises(NbenchError, match="no signal at position 0"):
        run(scheduler_of("DDIM", **config), by_step)


def test_a_scheduler_that_makes_more_steps_than_asked_is_refused() -> None:
    scheduler = diffusers.DDIMScheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(61)
    with pytest.raises(NbenchError, match="DDIMScheduler makes 62 steps instead of 61"):
        NoiseLevels(scheduler)


@pytest.mark.parametrize(
    ("name", "config", "flow"),
    [
        ("FlowMatchEulerDiscrete", {}, True),
        ("FlowMatchLCM", {}, True),
        ("LTXEulerAncestralRF", {}, True),
        ("UniPCMultistep", {"prediction_type": "flow_prediction", "use_flow_sigmas": True}, True),
        ("UniPCMultistep", {}, False),
        ("EulerDiscrete", {}, False),
    ],
)
def test_what_follows_flow_matching(name: str, config: dict[str, Any], flow: bool) -> None:
    scheduler = getattr(diffusers, f"{name}Scheduler")(**config)
    assert is_flow(type(scheduler), scheduler.config) == flow
    assert is_flow(type(scheduler).__name__, scheduler.config) == flow
    assert is_flow(type("Mine", (type(scheduler),), {}), scheduler.config) == flow
