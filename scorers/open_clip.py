"""CLIP models of the optional package open_clip, including HPSv2 (Wu et al., arXiv 2306.09341)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.nn import functional

from ..errors import NbenchError, reason_of
from .image_processor import to_8_bits
from .placement import CPU, Placement
from .protocols import Reads

HPSV2 = ("xswu/HPSv2", "HPS_v2.1_compressed.pt")


class OpenCLIPScorer:
    """A TwinTower for an open_clip model, with open_clip's own image transform.

    Args:
        model: open_clip's name of it: ViT-H-14, hf-hub:ORG/NAME.
        weights: a pretrained tag of open_clip, or a file; None leaves them random.

    Raises:
        NbenchError: open_clip cannot be imported, or has no such model or weights.
    """

    def __init__(
        self,
        model: str,
        weights: str | Path | None,
        name: str = "open_clip",
        reads: Reads = "preview",
        placement: Placement = CPU,
    ) -> None:
        try:
            import open_clip
        except (ImportError, RuntimeError) as error:  # torchvision raises RuntimeError if torch is another build
            raise NbenchError(f"{name} needs open_clip ({reason_of(error)}): pip install 'nbench[open_clip]'") from None
        self.name, self.reads, self._device = name, reads, placement.device
        try:
            network, _, self._transform = open_clip.create_model_and_transforms(
                model, pretrained=None if weights is None else str(weights)
            )
            self._tokenizer = open_clip.get_tokenizer(model)
        except (RuntimeError, OSError) as error:
            raise NbenchError(f"open_clip has no {model} {weights or ''} ({reason_of(error)})") from None
        self._model: Any = network.to(placement.device, placement.torch_dtype).eval()
        self.fingerprint = placement.mark(_digest(network, model))

    @torch.inference_mode()
    def embed_text(self, prompts: Sequence[str]) -> torch.Tensor:
        """Unit-norm text embeddings float32 [P, D]; longer prompts are truncated."""
        tokens = self._tokenizer(list(prompts)).to(self._device)
        return functional.normalize(self._model.encode_text(tokens).float(), dim=-1)

    @torch.inference_mode()
    def embed_inputs(self, inputs: torch.Tensor) -> torch.Tensor:
        """Unit-norm image embeddings float32 [B, D] of RGB [B, 3, H, W] in 0..1."""
        images = map(Image.fromarray, to_8_bits(inputs).permute(0, 2, 3, 1).cpu().numpy())
        pixels = torch.stack([self._transform(image) for image in images])
        pixels = pixels.to(self._device, next(self._model.parameters()).dtype)
        return functional.normalize(self._model.encode_image(pixels).float(), dim=-1)


def hpsv2(placement: Placement) -> OpenCLIPScorer:
    """Human Preference Score v2.1: the cosine of a ViT-H-14 fine-tuned on preferences."""
    from huggingface_hub import hf_hub_download

    try:
        weights = hf_hub_download(*HPSV2)
    except Exception as error:  # the Hub client raises many unrelated types
        raise NbenchError(f"hpsv2: cannot download {'/'.join(HPSV2)} ({reason_of(error)})") from None
    return OpenCLIPScorer("ViT-H-14", weights, "hpsv2", "image", placement)


def _digest(network: torch.nn.Module, model: str) -> str:
    """A hash of the weights themselves, wherever they come from."""
    total = hashlib.sha256(f"open_clip {model}".encode())
    for name, value in sorted(network.state_dict().items()):
        total.update(name.encode())
        total.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return total.hexdigest()[:32]
