"""A pipeline's VAE at work: images to latents as the denoiser sees them, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


@torch.inference_mode()
def encode(vae: Any, images: np.ndarray) -> torch.Tensor:
    """Images, uint8 [B, h, w, 3], as latents float32 [B, C, H, W] on the CPU, scaled as denoisers see them.

    Of a distribution its mean is taken: a finished latent carries no noise of the autoencoder's.
    """
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).to(vae.device, vae.dtype) / 127.5 - 1
    # of videos, too: an image is one frame
    frames = "temperal_downsample" in vae.config
    found = vae.encode(pixels[:, :, None] if frames else pixels)
    latents = (found.latent_dist.mode() if hasattr(found, "latent_dist") else found.latent).float().cpu()
    if frames:
        mean, std = (torch.tensor(vae.config[name]).view(1, -1, 1, 1) for name in ("latents_mean", "latents_std"))
        return (latents.squeeze(2) - mean) / std
    return (latents - (vae.config.get("shift_factor") or 0.0)) * vae.config.scaling_factor


@torch.inference_mode()
def decode(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """RGB float32 [B, 3, H, W] in 0..1 of latents [B, C, h, w], as the pipelines of this VAE decode them."""
    config = vae.config
    of_frames = "QwenImage" in type(vae).__name__  # wants an axis of frames
    mean, std = config.get("latents_mean"), config.get("latents_std")
    given = latents.to(vae.device, vae.dtype) / (config.get("scaling_factor") or 1.0)
    if mean is not None and std is not None:
        given = given * given.new_tensor(std)[:, None, None] + given.new_tensor(mean)[:, None, None]
    given = given + (config.get("shift_factor") or 0.0)
    made = vae.decode(given[:, :, None] if of_frames else given).sample
    return ((made[:, :, 0] if of_frames else made).float() / 2 + 0.5).clamp(0, 1)
