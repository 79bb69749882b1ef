"""BLIP's image-text matching (Li et al., arXiv 2201.12086): the probability that image and prompt match."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from .image_processor import ImageProcessor
from .placement import CPU, Placement
from .protocols import Reads
from .weights import folder_fingerprint, model_folder, whole_model


class BLIPMatchScorer:
    """A PairScorer for a transformers BlipForImageTextRetrieval: P(match) of its matching head."""

    reads: Reads = "image"

    def __init__(self, source: str | Path, name: str = "blip-itm", placement: Placement = CPU) -> None:
        from transformers import AutoTokenizer, BlipForImageTextRetrieval

        folder = model_folder(source)
        self.name, self._device = name, placement.device
        self.fingerprint = placement.mark(folder_fingerprint(folder, "blip-itm"))
        self._process = ImageProcessor(folder, placement.device)
        self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model = whole_model(BlipForImageTextRetrieval, folder, dtype=placement.torch_dtype)
        self._model = model.to(placement.device).eval()

    @torch.inference_mode()
    def score(self, inputs: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """P(match) float32 [B] of RGB images [B, 3, H, W] in 0..1, each with its own prompt."""
        limit = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer(list(prompts), padding=True, truncation=True, max_length=limit, return_tensors="pt")
        output = self._model(
            input_ids=tokens.input_ids.to(self._device),
            attention_mask=tokens.attention_mask.to(self._device),
            **self._process(inputs, self._model.dtype),
        )
        return output.itm_score.float().softmax(-1)[:, 1]
