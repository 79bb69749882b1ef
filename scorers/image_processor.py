"""RGB as a model's own image processor makes its input of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..errors import NbenchError, reason_of


def to_8_bits(rgb: torch.Tensor) -> torch.Tensor:
    """RGB uint8 [B, 3, H, W] of RGB in 0..1: what image files hold, and all that image processors are made for."""
    return (rgb * 255).round().to(torch.uint8)


class ImageProcessor:
    """The image processor of transformers that is saved with a model, on batches.

    With torchvision installed it computes on `device`, else by PIL on the CPU.

    Raises:
        NbenchError: the folder has none that transformers can open.
    """

    def __init__(self, folder: Path, device: str | torch.device = "cpu") -> None:
        from transformers import AutoImageProcessor

        try:
            self._processor: Any = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
        except (OSError, ValueError, ImportError, TypeError, KeyError, AttributeError) as error:
            raise NbenchError(
                f"no image processor in {folder} ({reason_of(error)}): save the model's own there with save_pretrained"
            ) from None
        self._device = torch.device(device)
        self._on_device = getattr(self._processor, "backend", None) == "torchvision"

    def __call__(self, rgb: torch.Tensor, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
        """What the model's image tower takes of RGB [B, 3, H, W] in 0..1: `pixel_values` and whatever goes with them.

        All on the device, floating point as `dtype`. Previews and decoded latents are rounded to 8 bits first.
        """
        pixels = to_8_bits(rgb).to(self._device if self._on_device else "cpu")
        options = {"device": self._device} if self._on_device else {}
        inputs = self._processor(
            images=list(pixels), input_data_format="channels_first", return_tensors="pt", **options
        )
        return {
            name: value.to(self._device, dtype if value.is_floating_point() else None) for name, value in inputs.items()
        }
