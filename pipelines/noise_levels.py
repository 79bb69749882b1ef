"""The finished latent that a denoiser's prediction stands for (x0), as the scheduler at work understands it."""

from __future__ import annotations

import inspect
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from ..errors import NbenchError
from ..shards.schema import PositionInfo

_KINDS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "sample", "original_sample": "sample"}


def estimate_x0(
    scheduler: Any, position: int, timestep: float, sample: torch.Tensor, prediction: torch.Tensor
) -> torch.Tensor:
    """The x0 estimate at `position`, float32 and shaped like `sample`, from what `scheduler.step` is given there.

    With latent = alpha x0 + sigma noise: (latent - sigma p) / alpha of a predicted noise p, alpha latent - sigma p of a
    predicted velocity (Salimans and Ho, arXiv 2202.00512), latent - sigma p in flow matching. What a scheduler clips
    or thresholds is clipped or thresholded here, too. The prediction is the guided one.

    Raises:
        NbenchError: the scheduler is of no known kind.
    """
    sample, prediction = sample.detach().float(), prediction.detach().float()
    prediction = prediction[:, : sample.shape[1]]  # a learned variance comes in further channels
    config = scheduler.config
    if hasattr(scheduler, "precondition_outputs"):  # EDM, arXiv 2206.00364
        return scheduler.precondition_outputs(sample, prediction, scheduler.sigmas[position].to(sample.device)).float()
    if _is_flow(scheduler):
        return sample - float(scheduler.sigmas[position]) * prediction
    kind = _KINDS.get(config.get("prediction_type", ""))
    if kind is None:
        raise _unknown(scheduler)
    if kind == "sample":
        return _bounded(scheduler, prediction)
    alpha, sigma, scale = _noise_level(scheduler, position, timestep)
    latent = sample * scale
    x0 = (latent - sigma * prediction) / alpha if kind == "epsilon" else alpha * latent - sigma * prediction
    return _bounded(scheduler, x0)


def _is_flow(scheduler: Any) -> bool:
    named = any(base.__name__.startswith("FlowMatch") for base in type(scheduler).__mro__)
    return named or scheduler.config.get("prediction_type") == "flow_prediction"


def _noise_level(scheduler: Any, position: int, timestep: float) -> tuple[float, float, float]:
    """Alpha and sigma, with alpha^2 + sigma^2 = 1, and by what to multiply a latent to bring it there."""
    if hasattr(
        scheduler, "_sigma_to_alpha_sigma_t"
    ):  # multistep solvers: sigmas of k-diffusion, latents of unit variance
        alpha, sigma = scheduler._sigma_to_alpha_sigma_t(torch.as_tensor(float(scheduler.sigmas[position])))
        return float(alpha), float(sigma), 1.0
    if hasattr(scheduler, "sigmas"):  # k-diffusion: latent = x0 + sigma noise
        ratio = float(scheduler.sigmas[position])
        alpha = 1 / math.sqrt(ratio**2 + 1)
        return alpha, ratio * alpha, alpha
    if hasattr(scheduler, "alphas_cumprod"):
        kept = float(scheduler.alphas_cumprod[int(timestep)])
        return math.sqrt(kept), math.sqrt(1 - kept), 1.0
    raise _unknown(scheduler)


def _bounded(scheduler: Any, x0: torch.Tensor) -> torch.Tensor:
    config = scheduler.config
    if config.get("thresholding", False):
        return scheduler._threshold_sample(x0)
    # schedulers with sigmas state clip_sample and do not clip
    if config.get("clip_sample", False) and not hasattr(scheduler, "sigmas"):
        bound = config.get("clip_sample_range", 1.0)
        return x0.clamp(-bound, bound)
    return x0


def _unknown(scheduler: Any) -> NbenchError:
    name, kind = type(scheduler).__name__, scheduler.config.get("prediction_type")
    told = f"prediction_type {kind!r}" if kind else "no prediction_type"
    return NbenchError(f"{name} with {told} has no x0 estimate that nbench knows: leave x0 out of --signals")


def noise_scales(scheduler: Any) -> list[tuple[float, float]]:
    """Of each position of the run that is set, before the last, by how much the image and the noise are multiplied.

    Three kinds: flow matching, 1 - s and s; those that keep the image at its size (k-diffusion: Euler), 1 and sigma;
    those that keep the variance (DDPM), sqrt(a) and sqrt(1 - a), whether they state a, or sigma = sqrt((1 - a) / a).

    Raises:
        NbenchError: the scheduler states neither.
    """
    if hasattr(scheduler, "sigmas"):
        sigmas = [float(sigma) for sigma in scheduler.sigmas[: len(scheduler.timesteps)]]
        if type(scheduler).__name__.startswith("FlowMatch"):
            return [(1 - sigma, sigma) for sigma in sigmas]
        if hasattr(scheduler, "_sigma_to_alpha_sigma_t"):  # the DPM-Solver and UniPC families, flows among them
            pairs = [scheduler._sigma_to_alpha_sigma_t(torch.tensor(sigma)) for sigma in sigmas]
            return [(float(alpha), float(sigma)) for alpha, sigma in pairs]
        return [(1.0, sigma) for sigma in sigmas]
    if hasattr(scheduler, "alphas_cumprod"):
        alphas = [float(scheduler.alphas_cumprod[int(timestep)]) for timestep in scheduler.timesteps]
        return [(alpha**0.5, (1 - alpha) ** 0.5) for alpha in alphas]
    raise NbenchError(f"{type(scheduler).__name__} states no noise levels: use one such as Euler, DDIM or UniPC")


def set_timesteps(scheduler: Any, pipeline: str, steps: int, latent: tuple[int, int]) -> None:
    """Set `scheduler` as a pipeline of that class does for `steps` steps and latents of that height and width."""
    arguments: dict[str, Any] = {"num_inference_steps": steps}
    if pipeline in _SPACED and "sigmas" in inspect.signature(scheduler.set_timesteps).parameters:
        arguments = {"sigmas": np.linspace(1.0, 1 / steps, steps).tolist()}
    config = scheduler.config
    if config.get("use_dynamic_shifting"):
        tokens = (latent[0] // 2) * (latent[1] // 2)
        fewest, most = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        # as FLUX.1 shifts its noise levels with the number of tokens
        arguments["mu"] = low + (high - low) * (tokens - fewest) / (most - fewest)
    try:
        scheduler.set_timesteps(**arguments)
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise NbenchError(f"{type(scheduler).__name__} does not run {steps} steps ({reason}): check --steps") from None


_SPACED = ("FluxPipeline", "QwenImagePipeline", "ZImagePipeline")
"""These space the noise levels of a run evenly themselves, in place of their scheduler."""


def run_positions(scheduler: Any) -> list[PositionInfo]:
    """What `scheduler`, whose timesteps are set, says of each position of its run.

    Raises:
        NbenchError: it does not call the denoiser once a step.
    """
    from .recorder import Recorder

    zeros = torch.zeros(1, 1, 1, 1)
    # what a pipeline does at each step, so that the positions are what a build would have recorded
    with Recorder(SimpleNamespace(scheduler=scheduler), ()) as recorder:
        for timestep in scheduler.timesteps:
            scheduler.step(zeros, timestep, zeros)
    return recorder.positions
