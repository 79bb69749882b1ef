"""Fine-tune a VQA model on x0 estimates to predict its answer for the finished image (TTSnap, arXiv 2511.22242)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ..errors import NbenchError
from ..scorers.builtin import fitting
from ..scorers.image_processor import ImageProcessor
from ..scorers.protocols import PairScorer, Reads
from ..scorers.vqascore import answer_logits, heed_question_mask
from ..scorers.weights import model_folder, whole_model
from ..shards.reader import open_bench
from ..shards.schema import LatentSpace
from .config import X0VQAConfig
from .examples import Examples
from .finetune import fine_tune
from .learner import Learner


def train(config: X0VQAConfig, shown: bool = True) -> Path:
    """Fine-tune the VQA model behind the reference `vqascore`; see `fine_tune`.

    It scores as `--model x0-preview:vqascore:FOLDER`.
    """
    space = open_bench(config.data).info.latent_space
    folder = model_folder(config.start or fitting("vqa", space))
    return fine_tune(config, lambda device: X0VQALearner(config, space, folder, device), folder, shown)


class X0VQALearner(Learner):
    """Learns the frozen model's P(yes) for the final image, of each caption and one corruption of it.

    Raises:
        NbenchError: the model is not a BlipForQuestionAnswering.
    """

    title = "x0-vqa"

    def __init__(self, config: X0VQAConfig, space: LatentSpace, folder: Path, device: torch.device) -> None:
        from transformers import AutoTokenizer, BlipForQuestionAnswering

        super().__init__(config, space, folder)
        if "BlipForQuestionAnswering" not in (folder / "config.json").read_text():
            raise NbenchError(
                f"{folder} is not a BlipForQuestionAnswering, the only kind that can be fine-tuned: name another"
            )
        self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self._process = ImageProcessor(folder, device)
        self.model = whole_model(BlipForQuestionAnswering, folder, dtype=torch.float32).to(device)
        teacher = copy.deepcopy(self.model).eval().requires_grad_(False)
        for blip in (self.model, teacher):
            heed_question_mask(blip)
        self._teacher = (teacher,)  # a tuple hides it from the modules that are trained and saved
        self._words = [self._tokenizer(word, add_special_tokens=False).input_ids[0] for word in ("yes", "no")]

    def forward(self, examples: Examples) -> dict[str, torch.Tensor]:
        """Cross entropy with the frozen model's answers. Accuracy: how often both agree on the caption."""
        draw = np.random.default_rng(examples.draw)
        near_misses = [str(draw.choice(texts)) if texts else "" for texts in examples.corrupted][examples.own]
        captions = examples.captions[examples.own]
        count, missed = len(captions), [row for row, text in enumerate(near_misses) if text]
        rows = torch.tensor([*range(count), *missed])
        texts = [*captions, *(near_misses[row] for row in missed)]
        with torch.no_grad():
            images = examples.images.decoded(range(count)).to(self.device)
            targets = self._yes(self._teacher[0], images[rows], texts).sigmoid()
        logits = self._yes(self.model, self.inputs(examples)[rows], texts)
        accuracy = ((logits > 0) == (targets > 0.5))[:count].float().mean()
        weight = torch.where(torch.arange(len(texts), device=logits.device) < count, 1.0, 0.5)
        loss = functional.binary_cross_entropy_with_logits(logits, targets, weight)
        return {"loss": loss, "accuracy": accuracy}

    def scorer(self) -> PairScorer:
        return _Answers(self)

    def answers(self, inputs: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """P("yes") [B] of RGB [B, 3, H, W] in 0..1."""
        logits = answer_logits(self.model, self._tokenizer, self._process(inputs)["pixel_values"], prompts)
        return logits.softmax(-1)[:, self._words[0]]

    def _yes(self, model: Any, images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        logits = answer_logits(model, self._tokenizer, self._process(images)["pixel_values"], prompts)
        return logits[:, self._words[0]] - logits[:, self._words[1]]


class _Answers:
    """The model in training as a PairScorer: P("yes"), as the finished model will score."""

    name, fingerprint = X0VQALearner.title, ""
    reads: Reads = "x0_preview"

    def __init__(self, learner: X0VQALearner) -> None:
        self._learner = learner

    @torch.inference_mode()
    def score(self, inputs: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """P("yes") float32 [B] of RGB [B, 3, H, W] in 0..1."""
        return self._learner.answers(inputs, prompts)
