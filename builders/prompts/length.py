"""How many prompts are longer than a pipeline's text encoders see."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from .rows import Prompt

_AT_ONCE = 1000
Seen = tuple[Any, int]
"""A tokenizer of transformers, and how many of its tokens, special ones included, a pipeline's text encoder sees."""


def count_too_long(prompts: Sequence[Prompt], seen: Sequence[Seen]) -> int:
    """How many prompts lose their end, as no text encoder of the pipeline sees them whole.

    Of several encoders (FLUX: CLIP with 77 tokens, T5 with 512) the one that sees most counts.
    """
    return sum(
        sum(all(cut) for cut in zip(*(_cut(prompts[start : start + _AT_ONCE], *one) for one in seen), strict=True))
        for start in range(0, len(prompts), _AT_ONCE)
    )


def too_long_note(prompts: Sequence[Prompt], seen: Sequence[Seen]) -> str:
    """A line that says how many prompts will be cut, and where; "" if none will."""
    cut = count_too_long(prompts, seen)
    if not cut:
        return ""
    most = max(most for _, most in seen)
    return f"{cut} of {len(prompts)} prompts are longer than the {most} tokens that the text encoder sees: they are cut"


def _cut(prompts: Sequence[Prompt], tokenizer: Any, most: int) -> list[bool]:
    tokens = tokenizer([prompt.text for prompt in prompts], truncation=False, padding=False, verbose=False)["input_ids"]
    return [len(of_one) > most for of_one in tokens]


def seen_tokens(pipe: Any, called: Mapping[str, Any]) -> list[Seen]:
    """The tokenizers of a diffusers pipeline that is called with `called`.

    Each cuts at its `model_max_length`; all but CLIP's at the pipeline's `max_sequence_length`, too, if it takes one.
    What a template puts around a prompt is not counted.
    """
    found, taken = list[Seen](), inspect.signature(pipe.__call__).parameters
    asked = called.get("max_sequence_length") or getattr(taken.get("max_sequence_length"), "default", None)
    for name, part in pipe.components.items():
        if name.startswith("tokenizer") and hasattr(part, "model_max_length"):
            encoder = pipe.components.get(name.replace("tokenizer", "text_encoder"))
            clip = "clip" in getattr(getattr(encoder, "config", None), "model_type", "")
            most = part.model_max_length
            found.append((part, most if clip or not isinstance(asked, int) else min(most, asked)))
    return found
