"""Counts the prompts that are longer than a pipeline's text encoders read."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import NbenchError, failure_of
from .rows import Prompt

_AT_ONCE = 1000
TokenLimit = tuple[Any, int]
"""A tokenizer of transformers, and how many of its tokens, special ones included, a pipeline's text encoder reads."""


def count_too_long(prompts: Sequence[Prompt], limits: Sequence[TokenLimit]) -> int:
    """How many prompts are cut by all text encoders of a pipeline.

    Of several encoders (FLUX: CLIP with 77 tokens, T5 with 512) the one that reads most counts.

    Raises:
        NbenchError: a tokenizer does not take them.
    """
    return sum(
        sum(
            all(cut) for cut in zip(*(_cut(prompts[start : start + _AT_ONCE], *limit) for limit in limits), strict=True)
        )
        for start in range(0, len(prompts), _AT_ONCE)
    )


def too_long_note(prompts: Sequence[Prompt], limits: Sequence[TokenLimit]) -> str:
    """A line that says how many prompts will be cut, and where; "" if none will."""
    cut = count_too_long(prompts, limits)
    if not cut:
        return ""
    most = max(most for _, most in limits)
    return f"{cut} of {len(prompts)} prompts are longer than the {most} tokens that the text encoder sees: they are cut"


def _cut(prompts: Sequence[Prompt], tokenizer: Any, most: int) -> list[bool]:
    texts = [prompt.text for prompt in prompts]
    try:
        tokens = tokenizer(texts, truncation=False, padding=False, verbose=False)["input_ids"]
    except Exception as error:  # tokenizers raise whatever they like
        raise NbenchError(
            f"{type(tokenizer).__name__} does not take the prompts ({failure_of(error)}): check its files"
        ) from error
    return [len(ids) > most for ids in tokens]


def token_limits(pipe: Any, arguments: Mapping[str, Any]) -> list[TokenLimit]:
    """The tokenizers and limits of a diffusers pipeline that is called with `arguments`.

    Each cuts at its `model_max_length`; all but CLIP's at the pipeline's `max_sequence_length`, too, if it takes one.
    What a template puts around a prompt is not counted.
    """
    limits, parameters = list[TokenLimit](), inspect.signature(pipe.__call__).parameters
    longest = arguments.get("max_sequence_length") or getattr(parameters.get("max_sequence_length"), "default", None)
    for name, part in pipe.components.items():
        if name.startswith("tokenizer") and hasattr(part, "model_max_length"):
            encoder = pipe.components.get(name.replace("tokenizer", "text_encoder"))
            clip = "clip" in getattr(getattr(encoder, "config", None), "model_type", "")
            most = part.model_max_length
            limits.append((part, most if clip or not isinstance(longest, int) else min(most, longest)))
    return limits
