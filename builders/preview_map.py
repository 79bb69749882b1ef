"""The linear map from a latent to RGB, fitted to decoded images."""

from __future__ import annotations

import numpy as np
import torch

from ..shards.schema import PreviewMap


def fit_preview(latents: np.ndarray, images: np.ndarray) -> PreviewMap:
    """Least squares from finished latents [B, C, H, W] to their images [B, h, w, 3] (0..1), average-pooled to H x W."""
    pixels = torch.from_numpy(images).double().permute(0, 3, 1, 2)
    target = torch.nn.functional.adaptive_avg_pool2d(pixels, latents.shape[-2:]).permute(0, 2, 3, 1).reshape(-1, 3)
    values = latents.astype(np.float64).transpose(0, 2, 3, 1).reshape(-1, latents.shape[1])
    design = np.concatenate([values, np.ones((len(values), 1))], axis=1)
    solution = np.linalg.lstsq(design, target.numpy(), rcond=None)[0].round(6)
    red, green, blue = (tuple(map(float, column)) for column in solution[:-1].T)
    return PreviewMap((red, green, blue), (float(solution[-1, 0]), float(solution[-1, 1]), float(solution[-1, 2])))
