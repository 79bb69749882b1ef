"""Trajectories as engines and scripts record them: which position each latent belongs to, and its layout."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from ...errors import NbenchError
from ...pipelines.latent_layout import unpack
from ...shards.schema import PositionInfo
from .tensor_files import FLOATS

_SCALES = range(4, 65)
"""Pixels per latent pixel of the VAEs of image pipelines."""


@dataclass(frozen=True)
class Steps:
    """The positions that the entries of a trajectory belong to, and the timesteps and sigmas of a run, 0..T."""

    held: tuple[int, ...]
    places: tuple[PositionInfo, ...]


def steps_of(held: Sequence[int], steps: int, timesteps: Any, sigmas: Any) -> Steps:
    """Check and name the positions of a run of `steps`; flow matching: the denoiser sees the latent itself.

    timesteps: of the steps, or of all positions; sigmas: of all positions, or of the steps; None: unknown.

    Raises:
        ValueError: positions out of order or range, or other numbers of timesteps or sigmas.
    """
    if not held or list(held) != sorted(set(held)) or held[0] < 0 or held[-1] > steps:
        raise ValueError(f"positions {list(held)[:8]} are not some of 0..{steps} in order")
    times, levels = _numbers("timesteps", timesteps, steps), _numbers("sigmas", sigmas, steps)
    levels[steps] = 0.0
    places = [PositionInfo(k, None if k == steps else times[k], levels[k], 1.0) for k in range(steps + 1)]
    return Steps(tuple(held), tuple(places))


def _numbers(name: str, values: Any, steps: int) -> list[float | None]:
    if values is None:
        return [None] * (steps + 1)
    numbers = numbers_of(values)
    if len(numbers) not in (steps, steps + 1):
        raise ValueError(f"it has {len(numbers)} {name}, not the {steps} or {steps + 1} of {steps} steps")
    if not all(np.isfinite(numbers)) or sorted(numbers, reverse=True) != numbers:
        raise ValueError(f"its {name} do not fall from step to step")
    return [*numbers, *([None] if len(numbers) == steps else [])]


def numbers_of(values: Any) -> list[float]:
    """The numbers of a tensor or list of any shape.

    Raises:
        ValueError: other values.
    """
    if isinstance(values, list | tuple) and all(isinstance(each, torch.Tensor) for each in values):
        values = torch.stack([each.reshape(()) for each in values]) if values else []
    try:
        return [float(each) for each in np.asarray(torch.as_tensor(values).double()).reshape(-1)]
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"numbers are missing ({error})") from None


def as_latent(tensor: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor:
    """A latent [C, H, W] from one of [C, H, W], of one frame, or packed into tokens [H/2 * W/2, 4C] as FLUX does.

    image_size: height and width of its image, which must be a whole multiple of the latent's.

    Raises:
        ValueError: several frames, integers, or a shape that does not fit the image.
    """
    if tensor.dtype not in FLOATS:
        raise ValueError(f"holds latents of {tensor.dtype}, not floating-point ones")
    if tensor.ndim == 4:
        frame = next((axis for axis in (1, 0) if tensor.shape[axis] == 1), None)
        if frame is None:
            raise ValueError(f"holds latents {list(tensor.shape)} of several frames: nbench records images")
        tensor = tensor.squeeze(frame)
    if tensor.ndim == 2:
        tensor = _unpacked(tensor, image_size)
    if tensor.ndim != 3:
        raise ValueError(f"holds latents {list(tensor.shape)}, neither [C, H, W] nor tokens")
    scales = {size / side for size, side in zip(image_size, tensor.shape[1:], strict=True)}
    if len(scales) != 1 or scales.pop() not in _SCALES:
        size = "x".join(map(str, image_size))
        raise ValueError(f"holds latents {list(tensor.shape)}, whose sides do not divide those of the image, {size}")
    return tensor


def _unpacked(tokens: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor:
    """Tokens [H/2 * W/2, 4C] as [C, H, W], where H and W follow from the shape of the image."""
    height, width = image_size
    rows = round((len(tokens) * height / width) ** 0.5)
    columns = len(tokens) // rows if rows else 0
    if not rows or rows * columns != len(tokens) or rows * width != columns * height:
        raise ValueError(f"holds {len(tokens)} tokens, which do not tile an image of {height}x{width}")
    try:
        return unpack(tokens[None], (2 * rows, 2 * columns))[0]
    except NbenchError as error:
        raise ValueError(str(error)) from None


def as_image(value: torch.Tensor) -> np.ndarray:
    """An image uint8 [H, W, 3] from [H, W, 3] or [3, H, W], also with one frame: uint8, or 0..1.

    Raises:
        ValueError: several frames, or no image.
    """
    pixels = value.squeeze()
    if pixels.ndim != 3 or 3 not in (pixels.shape[0], pixels.shape[-1]):
        raise ValueError(f"has an output of {list(value.shape)}, which is not one image")
    if pixels.shape[-1] != 3:
        pixels = pixels.permute(1, 2, 0)
    if pixels.dtype != torch.uint8:
        if not pixels.dtype.is_floating_point or pixels.min() < -0.01 or pixels.max() > 1.01:
            raise ValueError("has an output that is neither uint8 nor from 0 to 1")
        pixels = (pixels.float().clamp(0, 1) * 255).round().to(torch.uint8)
    return pixels.numpy()


def png_of(pixels: np.ndarray) -> bytes:
    """An image uint8 [H, W, 3] as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()
