"""A vision model's own image preprocessing in torch, on batches and on any device, without PIL or torchvision."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch.nn import functional

from ..errors import NbenchError

Mode = Literal["bilinear", "bicubic"]

_PIL_MODES: dict[int, Mode] = {2: "bilinear", 3: "bicubic"}
_SUPPORT = {"bilinear": 1, "bicubic": 2}


@dataclass(frozen=True)
class Preprocess:
    """Resize, centre crop and normalise, as a preprocessor_config.json says.

    size: (height, width), or one number for the shortest edge; crop: (height, width); None leaves the step out.
    patches: side and greatest number of the patches that a SigLIP 2 of any aspect ratio (NaFlex) takes, else None.
    """

    size: tuple[int, int] | int | None
    crop: tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mode: Mode = "bicubic"
    patches: tuple[int, int] | None = None

    @classmethod
    def none(cls) -> Preprocess:
        """For models that take what they are given."""
        return cls(None, None, (), ())

    @classmethod
    def from_folder(cls, folder: Path) -> Preprocess:
        """Read `folder/preprocessor_config.json`, or that part of `processor_config.json`.

        Raises:
            NbenchError: the file is missing, or asks for a resampling other than bilinear or bicubic.
        """
        path, config = _processor_config(folder)
        patches = (config["patch_size"], config["max_num_patches"]) if "max_num_patches" in config else None
        mode = _PIL_MODES.get(config.get("resample", 2 if patches else 3))
        if mode is None:
            raise NbenchError(f"{path}: resample {config['resample']} is not 2 (bilinear) or 3 (bicubic)")
        normalise = config.get("do_normalize", True)
        return cls(
            size=_size(config["size"]) if config.get("do_resize", True) and not patches else None,
            crop=_height_width(config["crop_size"]) if config.get("do_center_crop", "crop_size" in config) else None,
            mean=tuple(config["image_mean"]) if normalise else (0.0,) * 3,
            std=tuple(config["image_std"]) if normalise else (1.0,) * 3,
            mode=mode,
            patches=patches,
        )

    def __call__(self, rgb: torch.Tensor) -> torch.Tensor:
        """Model input float32 [B, 3, h, w] of RGB [B, 3, H, W] in 0..1."""
        size = self._patched_size(rgb) if self.patches else self.size
        if size is not None:
            rgb = self._resize(rgb, size)
        if self.crop is not None:
            rgb = _centre_crop(rgb, *self.crop)
        if not self.mean:
            return rgb
        return (rgb - rgb.new_tensor(self.mean)[:, None, None]) / rgb.new_tensor(self.std)[:, None, None]

    def model_input(self, rgb: torch.Tensor, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """What a vision tower's forward takes: `pixel_values`, and the layout of the patches where it wants that."""
        pixels = self(rgb).to(dtype)
        if self.patches is None:
            return {"pixel_values": pixels}
        side = self.patches[0]
        count, channels, height, width = pixels.shape
        rows, columns = height // side, width // side
        tiles = pixels.reshape(count, channels, rows, side, columns, side).permute(0, 2, 4, 3, 5, 1)
        return {
            "pixel_values": tiles.reshape(count, rows * columns, -1),
            "pixel_attention_mask": torch.ones(count, rows * columns, dtype=torch.long, device=pixels.device),
            "spatial_shapes": torch.tensor([[rows, columns]] * count, device=pixels.device),
        }

    def _patched_size(self, rgb: torch.Tensor) -> tuple[int, int]:
        from transformers.models.siglip2.image_processing_pil_siglip2 import get_image_size_for_max_num_patches

        assert self.patches is not None
        height, width = get_image_size_for_max_num_patches(*rgb.shape[-2:], *self.patches)
        return height, width

    def _resize(self, rgb: torch.Tensor, size: tuple[int, int] | int) -> torch.Tensor:
        """First the width, then the height, in 8 bits after each, as PIL does."""
        height, width = rgb.shape[-2:]
        target = size
        if isinstance(target, int):
            short = min(height, width)
            target = (int(target * height / short), int(target * width / short))
        pixels = (rgb * 255).double()
        if width != target[1]:
            pixels = _to_8_bits(pixels @ _weights(width, target[1], self.mode).to(rgb.device).T)
        if height != target[0]:
            pixels = _to_8_bits(_weights(height, target[0], self.mode).to(rgb.device) @ pixels)
        return (pixels / 255).to(rgb.dtype)


def _processor_config(folder: Path) -> tuple[Path, dict[str, Any]]:
    path, whole = folder / "preprocessor_config.json", folder / "processor_config.json"
    if path.is_file():
        return path, json.loads(path.read_text())
    found = json.loads(whole.read_text()).get("image_processor") if whole.is_file() else None
    if found is None:
        raise NbenchError(f"no preprocessor_config.json in {folder}: save the model's image processor there")
    return whole, found


@lru_cache(maxsize=8)
def _weights(size: int, target: int, mode: Mode) -> torch.Tensor:
    """PIL's antialiased resampling along one axis as a matrix float64 [target, size], in its 22-bit fixed point."""
    scale = size / target
    stretch = max(scale, 1.0)
    centre = (torch.arange(target, dtype=torch.float64)[:, None] + 0.5) * scale
    support = _SUPPORT[mode] * stretch
    first, end = ((centre + side * support + 0.5).floor().clamp(0, size) for side in (-1, 1))
    place = torch.arange(size, dtype=torch.float64)
    distance = ((place + 0.5 - centre) / stretch).abs()
    if mode == "bilinear":
        weights = (1 - distance).clamp(min=0)
    else:  # Keys' cubic with a = -1/2
        near = (1.5 * distance - 2.5) * distance**2 + 1
        far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
        weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    weights = weights * ((place >= first) & (place < end))
    return (weights / weights.sum(1, keepdim=True) * 2**22).round() / 2**22


def _to_8_bits(pixels: torch.Tensor) -> torch.Tensor:
    return (pixels + 0.5).floor().clamp(0, 255)


def _centre_crop(rgb: torch.Tensor, height: int, width: int) -> torch.Tensor:
    top, left = (rgb.shape[-2] - height) // 2, (rgb.shape[-1] - width) // 2
    # a negative padding crops, so this pads what is smaller and crops what is larger
    return functional.pad(rgb, (-left, width - rgb.shape[-1] + left, -top, height - rgb.shape[-2] + top))


def _size(size: dict[str, int] | int) -> tuple[int, int] | int:
    if isinstance(size, int):  # files of before transformers 4.22
        return size
    return size["shortest_edge"] if "shortest_edge" in size else _height_width(size)


def _height_width(size: dict[str, int] | int) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size["height"], size["width"])
