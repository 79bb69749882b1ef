"""VQAScore by any image-text-to-text model of transformers, asked through its own processor and chat template."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..errors import NbenchError, reason_of
from .image_processor import to_8_bits
from .placement import CPU, Placement
from .protocols import Reads
from .vqascore import QUESTION
from .weights import folder_fingerprint, model_folder, whole_model

Inputs = dict[str, torch.Tensor]
"""Arguments of a model's forward."""


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


def _of_equal_shapes(rows: Sequence[Inputs]) -> Iterable[list[int]]:
    """Row numbers, grouped by equal shapes."""
    groups = defaultdict(list)
    for number, row in enumerate(rows):
        groups[tuple((key, *value.shape) for key, value in row.items())].append(number)
    return groups.values()
