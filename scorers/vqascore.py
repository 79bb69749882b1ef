"""VQAScore (Lin et al., arXiv 2404.01291): a VQA model's probability of "yes" when asked if an image shows a prompt."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from ..errors import NbenchError, reason_of
from .image_processor import ImageProcessor, to_8_bits
from .placement import CPU, Placement
from .protocols import Reads
from .weights import folder_fingerprint, model_folder, read_config, whole_model

if TYPE_CHECKING:
    from transformers import BlipForQuestionAnswering

    from .clip_flant5 import CLIPFlanT5Scorer
    from .llava import LlavaScorer

Inputs = dict[str, torch.Tensor]
"""Arguments of a model's forward."""
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


class ChatVQAScorer:
    """A PairScorer for any transformers image-text-to-text model: P(first answer token is "Yes") over its vocabulary.

    Each image and its question go through the model's processor (and chat template, if any) alone; rows of equal
    shapes are then batched. Nothing is padded, and no answer depends on other rows.

    Args:
        end: score "Yes" and the end of the answer: the root of both probabilities' product, as CLIP-FlanT5 does.
        question: with {prompt} in it.

    Raises:
        NbenchError: transformers cannot open it; from `score`: it does not accept an image with a question.
    """

    reads: Reads = "image"

    def __init__(
        self,
        source: str | Path,
        name: str = "vqascore",
        placement: Placement = CPU,
        end: bool = False,
        question: str = QUESTION,
    ) -> None:
        self._folder = model_folder(source)
        self.name, self._source, self._placement, self._device = name, source, placement, placement.device
        self._end, self._question = end, question
        parts = ("vqascore", question, *(("end",) if end else ()))
        self.fingerprint = placement.mark(folder_fingerprint(self._folder, *parts))
        self._model: Any = None

    def load(self) -> None:
        """Load the weights if they are not loaded yet.

        Raises:
            NbenchError: transformers cannot open the model, or it has no token for Yes.
        """
        if self._model is not None:
            return
        from transformers import AutoModelForImageTextToText, AutoProcessor

        source, folder, placement = self._source, self._folder, self._placement
        try:
            model = whole_model(
                AutoModelForImageTextToText, folder, dtype=placement.torch_dtype, trust_remote_code=False
            )
            self._processor: Any = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
            yes = self._processor.tokenizer("Yes", add_special_tokens=False).input_ids
        except NbenchError:
            raise
        except Exception as error:  # processors and models raise many unrelated types
            raise self._refusal(error) from error
        if not yes or yes[0] == self._processor.tokenizer.unk_token_id:
            raise NbenchError(f"{source} has no token for Yes: name a model that answers in English")
        self._model, self._yes = model.to(placement.device).eval(), yes[0]

    @torch.inference_mode()
    def score(self, inputs: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Scores float32 [B] of RGB images [B, 3, H, W] in 0..1, each with its own prompt."""
        self.load()
        images = map(Image.fromarray, to_8_bits(inputs).permute(0, 2, 3, 1).cpu().numpy())
        scores = torch.empty(len(prompts), device=self._device)
        try:
            rows = [self._inputs(*row) for row in zip(images, prompts, strict=True)]
            for group in _of_equal_shapes(rows):
                batch = {key: torch.cat([rows[row][key] for row in group]) for key in rows[group[0]]}
                scores[group] = self._answered(batch)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # processors and models raise many unrelated types
            raise self._refusal(error) from error
        return scores

    def _inputs(self, image: Image.Image, prompt: str) -> Inputs:
        """The model's inputs for one image and its question, a batch of one."""
        question = self._question.format(prompt=prompt)
        if getattr(self._processor, "chat_template", None):
            content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
            # tokenized in this call: the template already writes the special tokens
            inputs = self._processor.apply_chat_template(
                [{"role": "user", "content": content}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
        else:
            text = question if self._places_images(image) else f"{self._processor.image_token}{question}"
            inputs = self._processor(images=[[image]], text=[text], return_tensors="pt")
        return {key: value for key, value in inputs.items() if isinstance(value, torch.Tensor)}

    def _places_images(self, image: Image.Image) -> bool:
        """Whether the processor inserts the image token before a text that lacks it."""
        token = getattr(self._processor, "image_token", None)
        if token is None:
            return True
        try:
            ids = self._processor(images=[[image]], text=["?"], return_tensors="pt").input_ids
        except ValueError:
            return False
        return bool((ids == self._processor.tokenizer.convert_tokens_to_ids(str(token))).any())

    def _answered(self, batch: Inputs) -> torch.Tensor:
        """P("Yes") [B], or the root of P("Yes") P(end | "Yes")."""
        yes, *after = (logits.float().softmax(-1) for logits in self._logits(batch))
        if not after:
            return yes[:, self._yes]
        return (yes[:, self._yes] * after[0][:, self._ends].sum(-1)).sqrt()

    @property
    def _ends(self) -> list[int]:
        """The tokens that end an answer."""
        ends = self._model.generation_config.eos_token_id
        if ends is None:
            raise NbenchError(f"{self._source} has no token that ends an answer: leave ?answer=end out")
        return [ends] if isinstance(ends, int) else list(ends)

    def _logits(self, batch: Inputs) -> tuple[torch.Tensor, ...]:
        """Logits [B, V] of the first answer token, and, if the end counts, of the one after "Yes"."""
        dtype = self._model.dtype
        inputs = {
            key: value.to(self._device, dtype if value.is_floating_point() else None) for key, value in batch.items()
        }
        answer = self._model.generate(
            **inputs,
            max_new_tokens=1 + self._end,
            logits_processor=[self._only_yes],
            do_sample=False,
            num_beams=1,
            output_logits=True,  # as the model gives them
            return_dict_in_generate=True,
        )
        logits: tuple[torch.Tensor, ...] = answer.logits
        return logits

    def _only_yes(self, tokens: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Let the model go on with "Yes", whatever it would have said."""
        return torch.full_like(logits, float("-inf")).index_fill(1, logits.new_tensor([self._yes]).long(), 0.0)

    def _refusal(self, error: Exception) -> NbenchError:
        reason = reason_of(error)
        if isinstance(error, ImportError):
            return NbenchError(f"{self._source} needs a missing package ({reason.partition('. ')[0]}): install it")
        return NbenchError(
            f"{self._source} does not answer questions about images ({reason}): name an image-text-to-text model"
        )


def vqa_scorer(
    source: str | Path,
    name: str = "vqascore",
    placement: Placement = CPU,
    answer: str | None = None,
    question: str | None = None,
) -> VQAScorer | ChatVQAScorer | CLIPFlanT5Scorer | LlavaScorer:
    """The scorer class that fits the model: BLIP question answering, CLIP-FlanT5, LLaVA-1.5, or image-text-to-text.

    Args:
        answer: "yes" scores the first token alone, "end" also the end of the answer; None: the model's usual one, which
            is "end" for CLIP-FlanT5 and "yes" for others.
        question: "t2v" asks as t2v_metrics asks models of this type, see `T2V_QUESTIONS`; None: `QUESTION`.

    Raises:
        NbenchError: another `answer` or `question`, or none of such a model.
    """
    from .clip_flant5 import CLIPFlanT5Scorer
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
    text = config.get("text_config")
    if answer == "end" and kind == "llava" and (text or {}).get("model_type", "llama") == "llama":
        return LlavaScorer(source, name, placement)
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


def _of_equal_shapes(rows: Sequence[Inputs]) -> Iterable[list[int]]:
    """Row numbers, grouped by equal shapes."""
    groups = defaultdict(list)
    for number, row in enumerate(rows):
        groups[tuple((key, *value.shape) for key, value in row.items())].append(number)
    return groups.values()
