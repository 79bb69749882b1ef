"""VQAScore by CLIP-FlanT5 (Lin et al., arXiv 2404.01291), equal to that of the authors' package t2v_metrics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import NbenchError
from .image_processor import ImageProcessor
from .placement import CPU, Placement
from .protocols import Reads
from .vqascore import QUESTION
from .weights import folder_fingerprint, has_weights, model_folder, read_config

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
TOKENIZER = "google/flan-t5-xxl"
"""The tokenizer of all sizes of Flan-T5, for folders without one."""
MAX_TOKENS = 2048


class CLIPFlanT5Scorer:
    """A PairScorer: sqrt(P("Yes") P(end of answer | "Yes")), the exponential of minus the mean loss of both tokens.

    Args:
        source: folder or Hub id in the layout of zhiqiulin/clip-flant5-xxl: T5, projector and the name of the CLIP.
        end: False scores "Yes" alone, P("Yes").

    Raises:
        NbenchError: no such model, no weights, or its CLIP or tokenizer cannot be found.
    """

    reads: Reads = "image"

    def __init__(
        self, source: str | Path, name: str = "vqascore", placement: Placement = CPU, end: bool = True
    ) -> None:
        self._folder = model_folder(source)
        if not has_weights(self._folder):
            raise NbenchError(
                f"{source} has no safetensors, and pickles are not downloaded: run `hf download {source} --local-dir "
                "FOLDER` and name the folder, or use t2v:MODEL"
            )
        tower = read_config(self._folder).get("mm_vision_tower")
        if not isinstance(tower, str):
            raise NbenchError(
                f"{self._folder / 'config.json'} lacks mm_vision_tower: name the folder or Hub id of a CLIP"
            )
        self._tower, clip = tower, model_folder(tower, weights=False)
        texts = any(self._folder.glob("spiece.model")) or any(self._folder.glob("tokenizer.json"))
        self._texts = self._folder if texts else model_folder(TOKENIZER, weights=False)
        self.name, self._placement = name, placement
        parts = ("clip-flant5", SYSTEM, QUESTION, *(() if end else ("yes",)))
        others = [folder_fingerprint(folder) for folder in (clip, self._texts)]
        self.fingerprint = placement.mark(folder_fingerprint(self._folder, *parts, *others))
        self._clip, self._end = clip, end
        self._model: Any = None

    def load(self) -> None:
        """Load the weights if they are not loaded yet.

        Raises:
            NbenchError: tensors are missing.
        """
        if self._model is not None:
            return
        from transformers import T5TokenizerFast

        from .clip_t5 import open_clip_t5

        device = self._placement.device
        self._process = ImageProcessor(self._clip, device, backend="pil")  # as the package, to the last bit
        self._tokenizer = T5TokenizerFast.from_pretrained(self._texts)
        self._before = self._tokens(f"{SYSTEM} USER: ")
        self._answer = self._tokens("Yes")
        self._model = open_clip_t5(self._folder, self._tower, self._placement.torch_dtype).to(device)

    @torch.inference_mode()
    def score(self, inputs: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Scores float32 [B] of RGB images [B, 3, H, W] in 0..1, each with its own prompt."""
        self.load()
        pixels = self._process(padded_to_square(inputs, self._process.normalisation[0]))["pixel_values"]
        after = self._tokenizer(
            [f"\n{QUESTION.format(prompt=prompt)} ASSISTANT: " for prompt in prompts],
            padding=True,
            padding_side="right",
            return_tensors="pt",
        ).to(self._placement.device)
        room = MAX_TOKENS - len(self._before) - 1  # the image counts as one
        logits = self._model.answer_logits(
            pixels, self._before, after.input_ids[:, :room], after.attention_mask[:, :room], self._answer
        )
        # T5's matrices have more rows than the tokenizer has tokens; the package cuts them
        chances = logits[..., : len(self._tokenizer)].log_softmax(-1)
        each = chances.gather(-1, self._answer.expand(len(chances), -1)[..., None])
        return each[:, : None if self._end else 1].mean((1, 2)).exp()

    def _tokens(self, text: str) -> torch.Tensor:
        """Tokens [L] of a text, with the end token."""
        return torch.tensor(self._tokenizer(text).input_ids, device=self._placement.device)


def padded_to_square(rgb: torch.Tensor, mean: Sequence[float]) -> torch.Tensor:
    """RGB [B, 3, H, W] in 0..1 in the middle of a square of the mean colour, whose 8-bit value is rounded down."""
    height, width = rgb.shape[-2:]
    side = max(height, width)
    colour = torch.tensor([int(value * 255) / 255 for value in mean], dtype=rgb.dtype, device=rgb.device)
    square = colour[:, None, None].expand(len(rgb), 3, side, side).clone()
    top, left = (side - height) // 2, (side - width) // 2
    square[..., top : top + height, left : left + width] = rgb
    return square
