"""The four near misses that every caption of a training set carries."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ..shapes import grammar
from .prompts import Prompt


def corrupt_prompts(prompts: Iterable[Prompt]) -> list[Prompt]:
    """Give each prompt its corruptions: its own, else those of the world's grammar, else none."""
    return [prompt if prompt.corruptions else _corrupt(prompt) for prompt in prompts]


def _corrupt(prompt: Prompt) -> Prompt:
    try:
        return replace(prompt, corruptions=grammar.corruptions(grammar.parse(prompt.text)))
    except ValueError:  # a caption of another world
        return prompt
