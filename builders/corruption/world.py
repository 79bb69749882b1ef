"""Near misses of the embedded world: exact, since its grammar tells a caption's parts and the truth of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...shapes import grammar
from .change import Change


class WorldEngine:
    """Parses captions by the shapes grammar; one of another language has no near miss here."""

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
