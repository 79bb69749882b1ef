"""NoisyCLIP (arXiv 2512.08505): CLIP with its image tower fine-tuned on previews of noisy latents."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from ..scorers.builtin import fitting
from ..scorers.weights import model_folder, whole_model
from ..shards.reader import open_bench
from .config import TrainConfig
from .contrast import contrast
from .finetune import Examples, FineTuning, fine_tune

if TYPE_CHECKING:
    from transformers import CLIPModel


def train(config: TrainConfig, shown: bool = True) -> Path:
    """Fine-tune CLIP's image tower; see `fine_tune`."""
    folder = model_folder(config.start or fitting("clip", open_bench(config.data).info.latent_space))
    return fine_tune(config, NoisyCLIPTraining, folder, shown)


class NoisyCLIPTraining(FineTuning):
    """Contrast of previews and captions (InfoNCE), corruptions as hard negatives; the text tower stays frozen."""

    title = "noisyclip"

    def open(self, folder: Path) -> Any:
        from transformers import CLIPModel

        model = whole_model(CLIPModel, folder, dtype=torch.float32)
        assert isinstance(self.config, TrainConfig)
        self._teacher = None
        if self.config.targets == "image":
            self._teacher = copy.deepcopy(model).to(self.device).eval().requires_grad_(False)
        return model

    def to_train(self) -> torch.nn.Module:
        return torch.nn.ModuleList([self.model.vision_model, self.model.visual_projection])

    def loss(self, examples: Examples) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss with CLIP's own logit scale. Accuracy: the share of images that score their own caption highest."""
        captions = examples.captions + [text for texts in examples.corrupted for text in texts]
        limit = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(captions, padding=True, truncation=True, max_length=limit, return_tensors="pt").to(
            self.device
        )
        with torch.no_grad():
            text = self.model.get_text_features(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        texts = functional.normalize(text.pooler_output, dim=-1) * self.model.logit_scale.exp()
        noisy = self._embed(self.model, examples.previews)
        teacher = None
        if self._teacher is not None:
            with torch.no_grad():
                teacher = self._embed(self._teacher, examples.images) @ texts.T
        return contrast(noisy @ texts.T, captions, teacher)

    def _embed(self, model: CLIPModel, images: torch.Tensor) -> torch.Tensor:
        return functional.normalize(model.get_image_features(**self.process(images)).pooler_output, dim=-1)
