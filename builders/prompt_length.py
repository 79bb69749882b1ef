"""How many prompts are longer than a pipeline's text encoders see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .prompt_rows import Prompt

_AT_ONCE = 1000


def count_too_long(prompts: Sequence[Prompt], tokenizers: Sequence[Any]) -> int:
    """How many prompts lose their end, as no text encoder of the pipeline sees them whole.

    `tokenizers` are those of transformers that the pipeline has, each of which cuts at its `model_max_length`, special
    tokens included. Of several encoders (FLUX: CLIP with 77 tokens, T5 with 512) the one that sees most counts.
    """
    return sum(
        sum(all(cut) for cut in zip(*(_cut(prompts[start : start + _AT_ONCE], one) for one in tokenizers), strict=True))
        for start in range(0, len(prompts), _AT_ONCE)
    )


def too_long_note(prompts: Sequence[Prompt], tokenizers: Sequence[Any]) -> str:
    """A line that says how many prompts will be cut, and where; "" if none will."""
    cut = count_too_long(prompts, tokenizers)
    if not cut:
        return ""
    most = max(tokenizer.model_max_length for tokenizer in tokenizers)
    return f"{cut} of {len(prompts)} prompts are longer than the {most} tokens that the text encoder sees: they are cut"


def _cut(prompts: Sequence[Prompt], tokenizer: Any) -> list[bool]:
    tokens = tokenizer([prompt.text for prompt in prompts], truncation=False, padding=False, verbose=False)["input_ids"]
    return [len(of_one) > tokenizer.model_max_length for of_one in tokens]


def tokenizers(pipe: Any) -> list[Any]:
    """The tokenizers of a diffusers pipeline."""
    parts = pipe.components.items()
    return [part for name, part in parts if name.startswith("tokenizer") and hasattr(part, "model_max_length")]
