"""Trains the world's VAE: 32x32 RGB to 16x16x4 latents that a linear map turns into previews.

Besides reconstruction, a learned 1x1 readout of the latent must give the average-pooled image: real latent spaces
(SDXL's) have that property, and without it a linear preview shows nothing.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from ..render import SIZE
from .batches import batches
from .loop import RunningAverage, fit

READOUT_WEIGHT, KL_WEIGHT, SQUARED_WEIGHT = 2.0, 1e-3, 2.0


def build_vae() -> AutoencoderKL:
    """A stock AutoencoderKL, downsampling 2, small enough to train in minutes."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 32),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIZE,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.0,
    )


def train(out: Path, steps: int, batch_size: int = 32, seed: int = 2) -> list[float]:
    """Train from nothing and save to `out`, scaled so that latents have mean 0 and variance 1; returns the losses."""
    torch.manual_seed(seed)
    vae, readout, source = build_vae(), torch.nn.Conv2d(4, 3, 1), batches(seed, batch_size)
    average = RunningAverage(vae, 0.995)

    def loss_of_step(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        pixels = next(source).pixels
        posterior = vae.encode(pixels).latent_dist
        latents = posterior.sample()
        error = vae.decode(latents).sample.float() - pixels
        shown = readout(latents).float() - F.avg_pool2d(pixels, 2)
        squared, shown_squared = error.square().mean(), shown.square().mean()
        kl = posterior.kl().mean() / latents[0].numel()
        loss = error.abs().mean() + SQUARED_WEIGHT * squared + READOUT_WEIGHT * shown_squared + KL_WEIGHT * kl
        return loss, {"psnr": _psnr(squared), "preview_psnr": _psnr(shown_squared), "kl": kl.item()}

    parameters = [*vae.parameters(), *readout.parameters()]
    losses = fit(parameters, loss_of_step, average, steps, 2e-3, out / "train.jsonl")
    with torch.no_grad():
        latents = torch.cat([vae.encode(next(source).pixels).latent_dist.sample() for _ in range(16)])
    vae.register_to_config(scaling_factor=1 / latents.std().item(), shift_factor=latents.mean().item())
    vae.half().save_pretrained(out)
    return losses


def _psnr(squared_error: torch.Tensor) -> float:
    """Decibels for images in -1..1."""
    return (10 * torch.log10(4 / squared_error.detach())).item()
