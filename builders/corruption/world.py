"""Near misses of the embedded world: exact, since its grammar parses captions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from ...shapes import grammar
from ..prompts.rows import Prompt
from ..prompts.spill import kept
from .change import Change


class WorldEngine:
    """Parses captions by the shapes grammar; others have no near miss here."""

    name = "world"

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def changes(self, captions: Sequence[str], kinds: Sequence[str]) -> Iterator[list[Change]]:
        for text in captions:
            try:
                near = grammar.corruptions(grammar.parse(text), self._seed)
            except ValueError:
                yield [Change(kind, "not applicable") for kind in kinds]
            else:
                yield [Change.between(kind, text, near[kind]) for kind in kinds]


def corrupt_prompts(prompts: Iterable[Prompt]) -> Sequence[Prompt]:
    """Give each prompt its corruptions: its own, else those of the world's grammar, else none."""
    return kept(prompt if prompt.corruptions else _corrupt(prompt) for prompt in prompts)


def _corrupt(prompt: Prompt) -> Prompt:
    try:
        return replace(prompt, corruptions=grammar.corruptions(grammar.parse(prompt.text)))
    except ValueError:  # a caption of another world
        return prompt
