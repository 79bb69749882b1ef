"""Answers as SGLang-Diffusion and vLLM-Omni give them, made by a real scheduler; independent of what reads them."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import diffusers
import numpy as np
import torch
from safetensors.torch import save

STEPS, CHANNELS, SIDE = 4, 4, 16
"""Denoising steps; channels of a latent; pixels of an image: latents are 2x2, and a token is all four."""


@dataclass(frozen=True)
class Made:
    """A run: raw latents [C, H, W] at 0..T, timesteps of the steps, sigmas of 0..T, and the image uint8 [H, W, 3]."""

    latents: list[torch.Tensor]
    timesteps: torch.Tensor
    sigmas: torch.Tensor
    image: np.ndarray


def made(seed: int, height: int = 32, width: int = 48, dtype: torch.dtype = torch.bfloat16) -> Made:
    """A flow-matching run on latents of an eighth of the image's sides, with predictions drawn by `seed`."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(STEPS)
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(1, CHANNELS, height // 8, width // 8, generator=generator)
    latents = [latent]
    for timestep in scheduler.timesteps:
        latent = scheduler.step(torch.randn(latent.shape, generator=generator), timestep, latent).prev_sample
        latents.append(latent)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Made([each[0].to(dtype) for each in latents], scheduler.timesteps, scheduler.sigmas, pixels)


def packed(latent: torch.Tensor) -> torch.Tensor:
    """A latent [C, H, W] as the tokens of FLUX, by diffusers."""
    channels, height, width = latent.shape
    tokens: torch.Tensor = diffusers.FluxPipeline._pack_latents(latent[None], 1, channels, height, width)[0]
    return tokens


def tensor(value: torch.Tensor, text: bool = False) -> dict[str, Any]:
    """A tensor in an answer of SGLang: safetensors as bytes, or as text in the JSON of earlier versions."""
    data: Any = save({"t": value.contiguous()})
    if text:
        data = base64.b64encode(data).decode("ascii")
    return {"__tensor__": True, "data": data, "shape": list(value.shape), "dtype": str(value.dtype)}


def rollout(prompt: str, seed: int, run: Made, steps: list[int] | None = None, **how: Any) -> dict[str, Any]:
    """One entry of the answer to POST /rollout/generate; `steps` chosen by rollout_return_step_indices.

    how: text: see `tensor`; pack: as tokens; frames: with a frame axis; number: of the image in its request.
    """
    text, chosen = bool(how.get("text")), steps or list(range(STEPS + 1))
    latents = [run.latents[k] for k in chosen]
    if how.get("pack"):
        latents = [packed(each) for each in latents]
    if how.get("frames"):
        latents = [each[:, None].repeat(1, int(how["frames"]), 1, 1) for each in latents]
    trajectory = {
        "latents": tensor(torch.stack(latents), text),
        "timesteps": tensor(torch.cat([run.timesteps, torch.zeros(1)]), text),
        "sigmas": tensor(run.sigmas, text),
    }
    if steps is not None:
        trajectory["latent_step_indices"] = tensor(torch.tensor(steps), text)
    image = torch.from_numpy(run.image.copy()).permute(2, 0, 1)[:, None].float() / 255
    return {
        "request_id": f"request-{prompt}-{seed}",
        "prompt": prompt,
        "seed": seed,
        "generated_output": tensor(image, text),
        "rollout_log_probs": None,
        "rollout_debug_tensors": None,
        "denoising_env": None,
        "dit_trajectory": trajectory,
        "inference_time_s": 1.5,
        "peak_memory_mb": None,
    }
