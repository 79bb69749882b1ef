"""Latents as RGB through the linear map of their latent space, no VAE."""

from __future__ import annotations

import torch

from ..shards.schema import PreviewMap


def preview(latents: torch.Tensor, preview_map: PreviewMap) -> torch.Tensor:
    """RGB float32 [B, 3, H, W] in 0..1 of latents [B, C, H, W]."""
    weight = torch.tensor(preview_map.weight, dtype=torch.float32, device=latents.device)
    bias = torch.tensor(preview_map.bias, dtype=torch.float32, device=latents.device)
    rgb = torch.einsum("rc,bchw->brhw", weight, latents.float()) + bias[:, None, None]
    return rgb.clamp(0, 1)
