"""A pipeline's VAE at work: images to latents as the denoiser sees them, and back by the inverse formula."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@torch.inference_mode()
def encode(vae: Any, images: np.ndarray) -> torch.Tensor:
    """Images, uint8 [B, h, w, 3], as latents float32 [B, C, H, W] on the CPU, scaled as denoisers see them.

    Of a distribution its mean is taken: a finished latent carries no noise of the autoencoder's.
    """
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).to(vae.device, vae.dtype) / 127.5 - 1
    frames = _has_frames(vae)
    output = vae.encode(pixels[:, :, None] if frames else pixels)
    if hasattr(output, "latent_dist"):
        raw = output.latent_dist.mode()
    else:  # AutoencoderDC, and AutoencoderTiny
        raw = output.latent if hasattr(output, "latent") else output.latents
    raw = (raw.squeeze(2) if frames else raw).float().cpu()
    return _scaling(vae, raw).scaled(raw)


def decode(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """RGB float32 [B, 3, h, w] in 0..1 of latents [B, C, H, W], as the pipelines of this VAE decode them.

    A VAE in float16 whose configuration says `force_upcast` decodes in float32, as SDXL's own pipeline lets it.
    """
    with _upcast(vae), torch.inference_mode():
        latents = latents.to(vae.device, vae.dtype)
        frames = _has_frames(vae)
        raw = _scaling(vae, latents).raw(latents)
        pixels = vae.decode(raw[:, :, None] if frames else raw).sample
        return ((pixels[:, :, 0] if frames else pixels).float() / 2 + 0.5).clamp(0, 1)


def take_any_dtype(vae: Any) -> None:
    """Make `decode` of a VAE cast latents to its own dtype: pipelines hand over those of the denoiser's."""
    decode = vae.decode

    @functools.wraps(decode)
    def cast(latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return decode(latents.to(vae.dtype), *args, **kwargs)

    vae.decode = cast


@contextlib.contextmanager
def _upcast(vae: Any) -> Iterator[None]:
    if vae.dtype != torch.float16 or not vae.config.get("force_upcast"):
        yield
        return
    vae.to(torch.float32)
    try:
        yield
    finally:
        vae.to(torch.float16)


@dataclass(frozen=True)
class _Scaling:
    """Between what a VAE encodes (raw) and what a denoiser sees: scaled = (raw - mean) / std * factor."""

    mean: torch.Tensor | float
    std: torch.Tensor | float
    factor: float

    def scaled(self, raw: torch.Tensor) -> torch.Tensor:
        return (raw - self.mean) / self.std * self.factor

    def raw(self, scaled: torch.Tensor) -> torch.Tensor:
        return scaled / self.factor * self.std + self.mean


def _scaling(vae: Any, latents: torch.Tensor) -> _Scaling:
    """The formula of a VAE for `latents` [B, C, H, W], whose device and dtype it is given.

    Most state a factor and a shift; some a mean and standard deviation of each channel (Qwen-Image, some of SDXL's);
    FLUX.2's has the running statistics of a batch norm, of each channel and place in a patch of 2 x 2.
    """
    config = vae.config
    if hasattr(vae, "bn"):
        rows, columns = config.patch_size
        repeats = (1, latents.shape[2] // rows, latents.shape[3] // columns)

        def tiled(statistic: torch.Tensor) -> torch.Tensor:
            return statistic.to(latents).view(-1, rows, columns).repeat(repeats)

        return _Scaling(tiled(vae.bn.running_mean), tiled(torch.sqrt(vae.bn.running_var + config.batch_norm_eps)), 1.0)
    factor, mean, std = config.get("scaling_factor") or 1.0, config.get("latents_mean"), config.get("latents_std")
    if mean is not None and std is not None:
        return _Scaling(latents.new_tensor(mean)[:, None, None], latents.new_tensor(std)[:, None, None], factor)
    return _Scaling(config.get("shift_factor") or 0.0, 1.0, factor)


def _has_frames(vae: Any) -> bool:
    """Whether it is one of videos, to which an image is one frame."""
    return any(isinstance(module, torch.nn.Conv3d) for module in vae.modules())
