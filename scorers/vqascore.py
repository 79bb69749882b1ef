"""VQAScore (Lin et al., arXiv 2404.01291): a VQA model's probability of "yes" when asked if an image shows a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import NbenchError
from .image_processor import ImageProcessor
from .placement import CPU, Placement
from .protocols import Reads
from .weights import folder_fingerprint, model_folder, read_config, whole_model

if TYPE_CHECKING:
    from transformers import BlipForQuestionAnswering

    from .chat_vqa import ChatVQAScorer
    from .clip_flant5 import CLIPFlanT5Scorer
    from .instruct_blip import InstructBlipScorer
    from .llava import LlavaScorer

QUESTION = 'Does this figure show "{prompt}"? Please answer yes or no.'
T2V_QUESTIONS = {
    "qwen2_vl": 'Does this image show "{prompt}"?',
    "qwen2_5_vl": 'Does this image show "{prompt}"?',
    "mllama": 'Does this image show "{prompt}"? Answer the question with Yes or No',
    "internvl": 'Does this figure show "{prompt}"? Please answer Yes or No.',
}
"""What t2v_metrics 3.0 asks models of these types instead."""


class VQAScorer:
    """A PairScorer for a transformers BlipForQuestionAnswering: P(first answer token is "yes") over its vocabulary."""

    reads: Reads = "image"

    def __init__(self, source: str | Path, name: str = "vqascore", placement: Placement = CPU) -> None:
        self._folder = model_folder(source)
        self.name, self._placement = name, placement
        self.fingerprint = placement.mark(folder_fingerprint(self._folder, "vqascore", QUESTION))
        self._model: Any = None

    def load(self) -> None:
        """Load the weights if they are not loaded yet.

        Raises:
            NbenchError: the folder lacks tensors.
        """
        if self._model is not None:
            return
        from transformers import AutoTokenizer, BlipForQuestionAnswering

        folder, placement = self._folder, self._placement
        self._process = ImageProcessor(folder, placement.device)
        self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self._yes = self._tokenizer("yes", add_special_tokens=False).input_ids[0]
        model = whole_model(BlipForQuestionAnswering, folder, dtype=placement.torch_dtype)
        self._model = model.to(placement.device).eval()
        heed_question_mask(self._model)

    @torch.inference_mode()
    def score(self, inputs: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """P("yes") float32 [B] of RGB images [B, 3, H, W] in 0..1, each with its own prompt."""
        self.load()
        pixels = self._process(inputs)["pixel_values"]
        return answer_logits(self._model, self._tokenizer, pixels, prompts).softmax(-1)[:, self._yes]


def answer_logits(
    model: BlipForQuestionAnswering, tokenizer: Any, pixels: torch.Tensor, prompts: Sequence[str]
) -> torch.Tensor:
    """Logits float32 [B, V] of the first answer token to VQAScore's question about each prompt.

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


def vqa_scorer(
    source: str | Path,
    name: str = "vqascore",
    placement: Placement = CPU,
    answer: str | None = None,
    question: str | None = None,
) -> VQAScorer | ChatVQAScorer | CLIPFlanT5Scorer | InstructBlipScorer | LlavaScorer:
    """The scorer class that fits the model: one of t2v_metrics' models, BLIP question answering, or image-text-to-text.

    Args:
        answer: "yes" scores the first token alone, "end" also the end of the answer; None: the model's usual one, which
            is "end" for CLIP-FlanT5 and "yes" for others.
        question: "t2v" asks as t2v_metrics asks models of this type, see `T2V_QUESTIONS`; None: `QUESTION`.

    Raises:
        NbenchError: another `answer` or `question`, or none of such a model.
    """
    from .chat_vqa import ChatVQAScorer
    from .clip_flant5 import CLIPFlanT5Scorer
    from .instruct_blip import InstructBlipScorer
    from .llava import LlavaScorer

    if answer not in (None, "yes", "end"):
        raise NbenchError(f"?answer={answer} is unknown: there are yes (the first token alone) and end (also the end)")
    config = read_config(model_folder(source))
    kind = str(config.get("model_type"))
    if question is not None and (question != "t2v" or kind not in T2V_QUESTIONS):
        raise NbenchError(
            f"?question={question} is not for {source} ({kind}): there is t2v, for {', '.join(T2V_QUESTIONS)}; "
            "others are asked the same by t2v_metrics"
        )
    if kind == "clip_t5":
        return CLIPFlanT5Scorer(source, name, placement, end=answer != "yes")
    if "BlipForQuestionAnswering" in (config.get("architectures") or ()):
        if answer == "end":
            raise NbenchError(f"{source} is a BLIP, scored by the first token of its answer: leave ?answer=end out")
        return VQAScorer(source, name, placement)
    text = (config.get("text_config") or {}).get("model_type")
    if answer == "end" and kind == "llava" and text in (None, "llama"):
        return LlavaScorer(source, name, placement)
    if answer == "end" and kind == "instructblip" and text == "t5":
        return InstructBlipScorer(source, name, placement)
    return ChatVQAScorer(source, name, placement, answer == "end", T2V_QUESTIONS[kind] if question else QUESTION)


def heed_question_mask(model: BlipForQuestionAnswering) -> None:
    """Make the answer decoder of a BlipForQuestionAnswering ignore the padding of questions.

    transformers (5.23) passes the mask to cross-attention under the name used for self-attention, so padding is
    attended to and an answer depends on the other questions in the batch.
    """

    def rename(
        module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if kwargs.get("encoder_attention_mask") is None:
            kwargs["encoder_attention_mask"] = kwargs.pop("attention_mask", None)
        return args, kwargs

    for layer in model.text_decoder.bert.encoder.layer:
        layer.crossattention.self.register_forward_pre_hook(rename, with_kwargs=True)
