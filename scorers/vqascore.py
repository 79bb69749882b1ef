"""VQAScore (Lin et al., arXiv 2404.01291): the probability that a model says yes, asked if an image shows a prompt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import NbenchError
from .placement import CPU, Placement
from .preprocess import Preprocess
from .protocols import PairScorer, Reads
from .weights import folder_fingerprint, model_folder

if TYPE_CHECKING:
    from transformers import BlipForQuestionAnswering

QUESTION = 'Does this figure show "{prompt}"? Please answer yes or no.'


class VQAScorer:
    """A PairScorer of a transformers BlipForQuestionAnswering: P(first answer token is "yes") over its vocabulary."""

    reads: Reads = "image"

    def __init__(self, source: str | Path, name: str = "vqascore", placement: Placement = CPU) -> None:
        from transformers import AutoTokenizer, BlipForQuestionAnswering

        folder = model_folder(source)
        self.name, self.device = name, torch.device(placement.device)
        self.fingerprint = placement.mark(folder_fingerprint(folder, "vqascore", QUESTION))
        self._preprocess = Preprocess.from_folder(folder)
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._yes = self._tokenizer("yes", add_special_tokens=False).input_ids[0]
        self._model = (
            BlipForQuestionAnswering.from_pretrained(folder, dtype=placement.torch_dtype).to(self.device).eval()
        )
        heed_question_mask(self._model)

    @torch.inference_mode()
    def score(self, inputs: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """P("yes") float32 [B] of RGB images [B, 3, H, W] in 0..1, each asked about its own prompt."""
        pixels = self._preprocess(inputs.to(self.device))
        return answer_logits(self._model, self._tokenizer, pixels, prompts).softmax(-1)[:, self._yes]


def answer_logits(
    model: BlipForQuestionAnswering, tokenizer: Any, pixels: torch.Tensor, prompts: Sequence[str]
) -> torch.Tensor:
    """Logits float32 [B, V] of the first word of the answer to VQAScore's question about each prompt.

    Args:
        pixels: preprocessed images [B, 3, h, w].
    """
    questions = [QUESTION.format(prompt=prompt) for prompt in prompts]
    limit = model.config.text_config.max_position_embeddings
    tokens = tokenizer(questions, padding=True, truncation=True, max_length=limit, return_tensors="pt").to(model.device)
    image = model.vision_model(pixel_values=pixels.to(model.device, model.dtype)).last_hidden_state
    question = model.text_encoder(
        input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, encoder_hidden_states=image
    ).last_hidden_state
    answer = model.text_decoder(
        input_ids=torch.full((len(questions), 1), model.decoder_start_token_id, device=model.device),
        encoder_hidden_states=question,
        encoder_attention_mask=tokens.attention_mask,
    )
    return answer.logits[:, -1].float()


class ChatVQAScorer:
    """A PairScorer of any transformers image-text-to-text model: P(first answer token is "Yes") over its vocabulary.

    Images go through the model's own processor, and the question through its chat template where it has one. Questions
    are padded on the right and each is read at its own end, so that no answer depends on the others in the batch.

    Raises:
        NbenchError: transformers cannot open it.
    """

    reads: Reads = "image"

    def __init__(self, source: str | Path, name: str = "vqascore", placement: Placement = CPU) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        folder = model_folder(source)
        self.name, self._device = name, placement.device
        self.fingerprint = placement.mark(folder_fingerprint(folder, "vqascore", QUESTION))
        try:
            self._processor = AutoProcessor.from_pretrained(folder)
            model = AutoModelForImageTextToText.from_pretrained(folder, dtype=placement.torch_dtype)
        except (OSError, ValueError, ImportError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise NbenchError(
                f"{source} cannot be asked about images ({reason}): name an image-text-to-text model"
            ) from None
        self._model = model.to(placement.device).eval()
        self._processor.tokenizer.padding_side = "right"
        self._yes = self._processor.tokenizer("Yes", add_special_tokens=False).input_ids[0]

    @torch.inference_mode()
    def score(self, inputs: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """P("Yes") float32 [B] of RGB images [B, 3, H, W] in 0..1, each asked about its own prompt."""
        images = list((inputs * 255).round().to(torch.uint8).cpu())
        texts = [self._asked(QUESTION.format(prompt=prompt)) for prompt in prompts]
        given = self._processor(images=images, text=texts, padding=True, return_tensors="pt").to(self._device)
        given = {
            key: value.to(self._model.dtype) if value.is_floating_point() else value for key, value in given.items()
        }
        if getattr(self._model.config.get_text_config(), "is_encoder_decoder", False):
            start = self._model.generation_config.decoder_start_token_id
            given["decoder_input_ids"] = torch.full((len(texts), 1), start, device=self._device)
            logits = self._model(**given).logits[:, 0]
        else:
            ends = given["attention_mask"].sum(1) - 1
            logits = self._model(**given).logits[torch.arange(len(texts), device=self._device), ends]
        return logits.float().softmax(-1)[:, self._yes]

    def _asked(self, question: str) -> str:
        if not getattr(self._processor, "chat_template", None):
            return f"{getattr(self._processor, 'image_token', '')}{question}"
        content = [{"type": "image"}, {"type": "text", "text": question}]
        chat = [{"role": "user", "content": content}]
        return str(self._processor.apply_chat_template(chat, add_generation_prompt=True))


def vqa_scorer(source: str | Path, name: str = "vqascore", placement: Placement = CPU) -> PairScorer:
    """The scorer that fits the model: BLIP's question answering, or any image-text-to-text model."""
    config = json.loads((model_folder(source) / "config.json").read_text())
    blip = "BlipForQuestionAnswering" in config.get("architectures", ())
    return (VQAScorer if blip else ChatVQAScorer)(source, name, placement)


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
