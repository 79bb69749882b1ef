"""VQAScore (Lin et al. 2024): the probability that a visual question answering model says yes to the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .preprocess import Preprocess
from .protocols import Reads
from .weights import folder_fingerprint, model_folder

if TYPE_CHECKING:
    from transformers import BlipForQuestionAnswering

QUESTION = 'Does this figure show "{prompt}"? Please answer yes or no.'


class VQAScorer:
    """A PairScorer of a transformers BlipForQuestionAnswering: P(first answer token is "yes") over its vocabulary."""

    reads: Reads = "image"

    def __init__(self, source: str | Path, name: str = "vqascore", device: str = "cpu") -> None:
        from transformers import AutoTokenizer, BlipForQuestionAnswering

        folder = model_folder(source)
        self.name, self.device = name, torch.device(device)
        self.fingerprint = folder_fingerprint(folder, "vqascore", QUESTION)
        self._preprocess = Preprocess.from_folder(folder)
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._yes = self._tokenizer("yes", add_special_tokens=False).input_ids[0]
        self._model = BlipForQuestionAnswering.from_pretrained(folder, dtype=torch.float32).to(self.device).eval()
        heed_question_mask(self._model)

    @torch.inference_mode()
    def score(self, inputs: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """P("yes") float32 [B] of RGB images [B, 3, H, W] in 0..1, each asked about its own prompt."""
        model, questions = self._model, [QUESTION.format(prompt=prompt) for prompt in prompts]
        limit = model.config.text_config.max_position_embeddings
        tokens = self._tokenizer(questions, padding=True, truncation=True, max_length=limit, return_tensors="pt")
        mask = tokens.attention_mask.to(self.device)
        image = model.vision_model(pixel_values=self._preprocess(inputs.to(self.device))).last_hidden_state
        question = model.text_encoder(
            input_ids=tokens.input_ids.to(self.device), attention_mask=mask, encoder_hidden_states=image
        ).last_hidden_state
        start = torch.full((len(questions), 1), model.decoder_start_token_id, device=self.device)
        answer = model.text_decoder(input_ids=start, encoder_hidden_states=question, encoder_attention_mask=mask)
        return answer.logits[:, -1].softmax(-1)[:, self._yes]


def heed_question_mask(model: BlipForQuestionAnswering) -> None:
    """Make the answer decoder of a BlipForQuestionAnswering look past the padding of the questions.

    transformers (5.23) hands its cross-attention the mask under a name that this reads for self-attention only, so
    the padding is attended to, and an answer depends on which other questions are in the batch.
    """

    def rename(
        module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if kwargs.get("encoder_attention_mask") is None:
            kwargs["encoder_attention_mask"] = kwargs.pop("attention_mask", None)
        return args, kwargs

    for layer in model.text_decoder.bert.encoder.layer:
        layer.crossattention.self.register_forward_pre_hook(rename, with_kwargs=True)
