"""The finished latent that a denoiser's prediction stands for (x0), as the scheduler at work understands it."""

from __future__ import annotations

import math
from typing import Any

import torch

from ..errors import NbenchError

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
