"""CLIP as a scorer: the cosine of image and prompt, on previews of latents or on final images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn import functional

from .preprocess import Preprocess
from .protocols import Reads
from .weights import folder_fingerprint, model_folder


class CLIPScorer:
    """A TwinTower of any transformers CLIPModel, frozen, in float32.

    Args:
        source: folder or Hub id with the model, its tokenizer and its preprocessor_config.json.
        name: what result tables call it.
        reads: "preview", or "image" for the reference score of final images.
    """

    def __init__(self, source: str | Path, name: str = "clip", reads: Reads = "preview", device: str = "cpu") -> None:
        from transformers import AutoTokenizer, CLIPModel

        folder = model_folder(source)
        self.name, self.reads, self.device = name, reads, torch.device(device)
        self.fingerprint = folder_fingerprint(folder, "clip", reads)
        self._preprocess = Preprocess.from_folder(folder)
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = CLIPModel.from_pretrained(folder, dtype=torch.float32).to(self.device).eval()

    @torch.inference_mode()
    def embed_text(self, prompts: Sequence[str]) -> torch.Tensor:
        """Unit-norm text embeddings float32 [P, D]; prompts longer than the model reads are cut."""
        limit = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer(list(prompts), padding=True, truncation=True, max_length=limit, return_tensors="pt")
        output = self._model.get_text_features(
            input_ids=tokens.input_ids.to(self.device), attention_mask=tokens.attention_mask.to(self.device)
        )
        return functional.normalize(output.pooler_output, dim=-1)

    @torch.inference_mode()
    def embed_inputs(self, inputs: torch.Tensor) -> torch.Tensor:
        """Unit-norm image embeddings float32 [B, D] of RGB [B, 3, H, W] in 0..1."""
        output = self._model.get_image_features(pixel_values=self._preprocess(inputs.to(self.device)))
        return functional.normalize(output.pooler_output, dim=-1)
