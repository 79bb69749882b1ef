"""Fine-tune a VQA model on x0 estimates to predict its answer for the finished image (TTSnap, arXiv 2511.22242)."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ..errors import NbenchError
from ..scorers.builtin import fitting
from ..scorers.vqascore import answer_logits, heed_question_mask
from ..scorers.weights import model_folder, whole_model
from ..shards.reader import open_bench
from .config import X0VQAConfig
from .finetune import Examples, FineTuning, fine_tune


def train(config: X0VQAConfig, shown: bool = True) -> Path:
    """Fine-tune the VQA model behind the reference `vqascore`; see `fine_tune`.

    It scores as `--model x0-preview:vqascore:FOLDER`.
    """
    folder = model_folder(config.start or fitting("vqa", open_bench(config.data).info.latent_space))
    return fine_tune(config, X0VQATraining, folder, shown)


class X0VQATraining(FineTuning):
    """Learns the frozen model's P(yes) for the final image, of each caption and one corruption of it.

    Raises:
        NbenchError: the model is not a BlipForQuestionAnswering.
    """

    title = "x0-vqa"

    def open(self, folder: Path) -> Any:
        from transformers import BlipForQuestionAnswering

        if "BlipForQuestionAnswering" not in (folder / "config.json").read_text():
            raise NbenchError(
                f"{folder} is not a BlipForQuestionAnswering, the only kind that can be fine-tuned: name another"
            )
        model = whole_model(BlipForQuestionAnswering, folder, dtype=torch.float32)
        self._teacher = copy.deepcopy(model).to(self.device).eval().requires_grad_(False)
        for blip in (model, self._teacher):
            heed_question_mask(blip)
        self._words = [self.tokenizer(word, add_special_tokens=False).input_ids[0] for word in ("yes", "no")]
        return model

    def to_train(self) -> torch.nn.Module:
        return torch.nn.ModuleList([self.model])

    def loss(self, examples: Examples) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross entropy with the frozen model's answers. Accuracy: how often both agree on the caption."""
        draw = np.random.default_rng([self.config.seed, self.step])
        corrupted = [(row, str(draw.choice(texts))) for row, texts in enumerate(examples.corrupted) if texts]
        count = len(examples.captions)
        rows = torch.tensor([*range(count), *(row for row, _ in corrupted)])
        captions = [*examples.captions, *(text for _, text in corrupted)]
        with torch.no_grad():
            targets = self._yes(self._teacher, examples.images[rows], captions).sigmoid()
        logits = self._yes(self.model, examples.previews[rows], captions)
        accuracy = ((logits > 0) == (targets > 0.5))[:count].float().mean()
        weight = torch.where(torch.arange(len(captions), device=logits.device) < count, 1.0, 0.5)
        return functional.binary_cross_entropy_with_logits(logits, targets, weight), accuracy

    def _yes(self, model: Any, images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        logits = answer_logits(model, self.tokenizer, self.process(images)["pixel_values"], prompts)
        return logits[:, self._words[0]] - logits[:, self._words[1]]
