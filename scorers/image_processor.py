"""Preprocess RGB images with the model's own image processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..errors import NbenchError, reason_of


def to_8_bits(rgb: torch.Tensor) -> torch.Tensor:
    """RGB in 0..1 to uint8 [B, 3, H, W], as in image files, which image processors expect."""
    return (rgb * 255).round().to(torch.uint8)


class ImageProcessor:
    """The transformers image processor saved with a model, for batches.

    With torchvision it computes on `device`, else, or with `backend` "pil", with PIL on the CPU.

    Raises:
        NbenchError: the folder has no processor that transformers can open.
    """

    def __init__(self, folder: Path, device: str | torch.device = "cpu", backend: str | None = None) -> None:
        from transformers import AutoImageProcessor

        try:
            self._processor: Any = AutoImageProcessor.from_pretrained(folder, backend=backend, trust_remote_code=False)
        except (OSError, ValueError, ImportError, TypeError, KeyError, AttributeError) as error:
            raise NbenchError(
                f"no image processor in {folder} ({reason_of(error)}): save the model's own there with save_pretrained"
            ) from None
        self._device = torch.device(device)
        self._on_device = getattr(self._processor, "backend", None) == "torchvision"

    @property
    def normalisation(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each RGB channel in 0..1, which the processor takes off and divides by."""
        processor = self._processor
        if not getattr(processor, "do_normalize", True):
            return [0.0] * 3, [1.0] * 3
        return list(processor.image_mean), list(processor.image_std)

    def __call__(self, rgb: torch.Tensor, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
        """The image tower's inputs for RGB [B, 3, H, W] in 0..1: `pixel_values` and what the model needs with them.

        They are on the device, floating point as `dtype`. RGB is rounded to 8 bits first.
        """
        pixels = to_8_bits(rgb).to(self._device if self._on_device else "cpu")
        options = {"device": self._device} if self._on_device else {}
        inputs = self._processor(
            images=list(pixels), input_data_format="channels_first", return_tensors="pt", **options
        )
        return {
            name: value.to(self._device, dtype if value.is_floating_point() else None) for name, value in inputs.items()
        }
