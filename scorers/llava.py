"""VQAScore by LLaVA-1.5 (Lin et al., arXiv 2404.01291), equal to that of the authors' package t2v_metrics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from ..errors import NbenchError
from .clip_flant5 import SYSTEM, padded_to_square
from .image_processor import ImageProcessor
from .placement import CPU, Placement
from .protocols import Reads
from .vqascore import QUESTION
from .weights import folder_fingerprint, model_folder, whole_model

BEFORE, AFTER, ANSWER = f"{SYSTEM} USER: ", f"\n{QUESTION} ASSISTANT: ", "Yes</s>"


class LlavaScorer:
    """A PairScorer: sqrt(P("Yes") P(end of answer | "Yes")), the exponential of minus the mean loss of both tokens.

    The text goes in as the package writes it, not through the chat template: a system message first, the text on either
    side of the image tokenised apart, the image padded to a square with the mean colour.

    Args:
        source: folder or Hub id of a LlavaForConditionalGeneration, such as llava-hf/llava-1.5-7b-hf.

    Raises:
        NbenchError: no such model, or it has no tokenizer.json.
    """

    reads: Reads = "image"

    def __init__(self, source: str | Path, name: str = "vqascore", placement: Placement = CPU) -> None:
        self._folder = model_folder(source)
        if not (self._folder / "tokenizer.json").is_file():
            raise NbenchError(f"{source} lacks tokenizer.json: name a LLaVA in the layout of llava-hf/llava-1.5-7b-hf")
        self.name, self._placement = name, placement
        self.fingerprint = placement.mark(folder_fingerprint(self._folder, "llava", BEFORE, AFTER, ANSWER))
        self._model: Any = None

    def load(self) -> None:
        """Load the weights if they are not loaded yet.

        Raises:
            NbenchError: tensors are missing.
        """
        if self._model is not None:
            return
        from tokenizers import Tokenizer, normalizers
        from transformers import LlavaForConditionalGeneration

        folder, placement = self._folder, self._placement
        self._process = ImageProcessor(folder, placement.device, backend="pil")  # as the package, to the last bit
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        # as LLaMA's own tokenizer, with a space before each text, which converted files may lack
        self._tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        self._tokenizer.pre_tokenizer = None
        model = whole_model(LlavaForConditionalGeneration, folder, dtype=placement.torch_dtype)
        for module in model.modules():
            if hasattr(module, "inv_freq"):  # the package rounds these with the weights
                module.inv_freq = module.inv_freq.bfloat16().float()
        self._model = model.to(placement.device).eval()

    @torch.inference_mode()
    def score(self, inputs: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Scores float32 [B] of RGB images [B, 3, H, W] in 0..1, each with its own prompt."""
        self.load()
        device, model = self._placement.device, self._model
        pixels = self._process(padded_to_square(inputs, self._process.normalisation[0]))["pixel_values"]
        texts, answers = zip(*map(self._tokens, prompts), strict=True)
        tokens = pad_sequence(list(texts), batch_first=True).to(device)
        lengths = torch.tensor([len(text) for text in texts], device=device)
        logits = model(
            input_ids=tokens,
            pixel_values=pixels.to(device, model.dtype),
            attention_mask=(torch.arange(tokens.shape[1], device=device) < lengths[:, None]).long(),
            use_cache=False,
        ).logits
        # the matrices have more rows than LLaVA's own tokenizer has tokens
        scores, words = [], self._tokenizer.get_vocab_size(with_added_tokens=False)
        for row, length, count in zip(range(len(texts)), lengths.tolist(), answers, strict=True):
            chances = logits[row, length - count - 1 : length - 1, :words].float().log_softmax(-1)
            scores.append(chances.gather(-1, tokens[row, length - count : length, None]).mean().exp())
        return torch.stack(scores)

    def _tokens(self, prompt: str) -> tuple[torch.Tensor, int]:
        """Tokens [L] of image, question and answer, and how many of them are the answer's."""
        config = self._model.config
        grid = config.vision_config.image_size // config.vision_config.patch_size
        question = AFTER.format(prompt=prompt)
        before, after, whole = (self._tokenizer.encode(text).ids for text in (BEFORE, question, question + ANSWER))
        image = [config.image_token_index] * grid**2
        tokens = torch.tensor([*before, *image, *whole[1:]])  # without a second token of the beginning
        return tokens, len(whole) - len(after) + 1  # the question's last token is a space, which joins "Yes"
