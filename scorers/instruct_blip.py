"""VQAScore by InstructBLIP with Flan-T5 (Lin et al., arXiv 2404.01291), equal to that of the package t2v_metrics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import NbenchError
from .image_processor import ImageProcessor, to_8_bits
from .placement import CPU, Placement
from .protocols import Reads
from .vqascore import QUESTION
from .weights import folder_fingerprint, model_folder, whole_model

ASKED, ANSWER = f"Question: {QUESTION}", "yes"
MAX_TOKENS = 128
"""Of a question, for the Q-Former and for T5; its beginning is cut off."""


class InstructBlipScorer:
    """A PairScorer: sqrt(P("yes") P(end of answer | "yes")), the exponential of minus the mean loss of both tokens.

    Image and text go in as t2v_metrics prepares them: the middle square of the image, the question after "Question: ".

    Args:
        source: folder or Hub id of an InstructBlipForConditionalGeneration, such as Salesforce/instructblip-flan-t5-xl.

    Raises:
        NbenchError: no such model, or it has no tokenizer of the Q-Former.
    """

    reads: Reads = "image"

    def __init__(self, source: str | Path, name: str = "vqascore", placement: Placement = CPU) -> None:
        self._folder = model_folder(source)
        self._qformer_texts = self._folder / "qformer_tokenizer"
        if not self._qformer_texts.is_dir():
            raise NbenchError(
                f"{source} lacks the folder qformer_tokenizer: name an InstructBLIP in the layout of "
                "Salesforce/instructblip-flan-t5-xl"
            )
        self.name, self._placement = name, placement
        parts = ("instruct-blip", ASKED, ANSWER, folder_fingerprint(self._qformer_texts))
        self.fingerprint = placement.mark(folder_fingerprint(self._folder, *parts))
        self._model: Any = None

    def load(self) -> None:
        """Load the weights if they are not loaded yet.

        Raises:
            NbenchError: tensors are missing.
        """
        if self._model is not None:
            return
        from transformers import AutoTokenizer, InstructBlipForConditionalGeneration, T5TokenizerFast

        folder, placement = self._folder, self._placement
        mean, deviation = ImageProcessor(folder, backend="pil").normalisation
        self._mean, self._deviation = (torch.tensor(values)[:, None, None] for values in (mean, deviation))
        self._tokenizer = T5TokenizerFast.from_pretrained(folder)
        self._qformer_tokenizer = AutoTokenizer.from_pretrained(self._qformer_texts, trust_remote_code=False)
        self._answer = torch.tensor(self._tokenizer(ANSWER).input_ids, device=placement.device)
        model = whole_model(InstructBlipForConditionalGeneration, folder, dtype=placement.torch_dtype)
        model.vision_model.post_layernorm.eps = 1e-5  # as its authors; transformers takes that of the other layers
        self._side: int = model.config.vision_config.image_size
        self._model = model.to(placement.device).eval()

    @torch.inference_mode()
    def score(self, inputs: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Scores float32 [B] of RGB images [B, 3, H, W] in 0..1, each with its own prompt."""
        self.load()
        model, device = self._model, self._placement.device
        questions = [ASKED.format(prompt=prompt) for prompt in prompts]
        short, text = (self._tokens(tokenizer, questions) for tokenizer in (self._qformer_tokenizer, self._tokenizer))
        image = model.get_image_features(
            self._pixels(inputs).to(device, model.dtype),
            qformer_input_ids=short.input_ids,
            qformer_attention_mask=short.attention_mask,
        ).pooler_output
        mask = torch.cat([text.attention_mask.new_ones(image.shape[:2]), text.attention_mask], dim=1)
        start = self._answer.new_full((1,), model.config.text_config.decoder_start_token_id)
        logits = model.language_model(
            inputs_embeds=torch.cat([image, model.get_input_embeddings()(text.input_ids)], dim=1),
            attention_mask=mask,
            decoder_input_ids=torch.cat([start, self._answer[:-1]]).expand(len(image), -1),
            use_cache=False,
        ).logits
        chances = logits.float().log_softmax(-1)
        return chances.gather(-1, self._answer.expand(len(image), -1)[..., None]).mean((1, 2)).exp()

    def _tokens(self, tokenizer: Any, texts: list[str]) -> Any:
        """Tokens and mask [B, L] of texts, which lose their beginning if they are too long."""
        tokenizer.truncation_side, tokenizer.padding_side = "left", "right"
        tokens = tokenizer(texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        return tokens.to(self._placement.device)

    def _pixels(self, rgb: torch.Tensor) -> torch.Tensor:
        """Normalised middle squares [B, 3, s, s], resized by PIL and cut as torchvision does."""
        height, width = rgb.shape[-2:]
        side, short = self._side, min(height, width)
        size = (int(side * width / short), int(side * height / short))
        left, top = (round((length - side) / 2) for length in size)
        squares = [
            Image.fromarray(image).resize(size, Image.Resampling.BICUBIC).crop((left, top, left + side, top + side))
            for image in to_8_bits(rgb).permute(0, 2, 3, 1).cpu().numpy()
        ]
        pixels = torch.from_numpy(np.stack([np.asarray(square) for square in squares])).permute(0, 3, 1, 2)
        return (pixels.float() / 255 - self._mean) / self._deviation
