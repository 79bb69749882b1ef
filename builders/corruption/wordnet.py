"""Co-hyponyms: nouns that share a hypernym, as a horse and a zebra do, from WordNet."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ...errors import NbenchError
from .lexicon import TRADES

if TYPE_CHECKING:
    from wn import Synset

_WORD = re.compile(r"[a-z]{3,}")
_VISIBLE = (None, "noun.animal", "noun.artifact", "noun.food", "noun.object", "noun.person", "noun.plant")
_MOST = 20
"""A hypernym with more hyponyms than this ("animal", "artifact") is too wide for a near miss."""


class CoHyponyms:
    """Reads a lexicon that the `wn` package has in its database, such as oewn:2024.

    Raises:
        NbenchError: `wn` or the lexicon is not installed.
    """

    def __init__(self, lexicon: str) -> None:
        try:
            import wn
        except ImportError:
            raise NbenchError("--wordnet needs the package wn: pip install 'nbench[rules]'") from None
        try:
            self._words = wn.Wordnet(lexicon)
        except wn.Error:
            raise NbenchError(
                f"no lexicon {lexicon!r} in WordNet's database: python -m wn download {lexicon}"
            ) from None

    def of(self, noun: str) -> tuple[str, ...]:
        """Single words that name another kind of what `noun` is a kind of, sorted; for people, trades of the lexicon.

        Empty if the first sense of `noun` is not visible ("front"): WordNet cannot tell which other sense is meant. A
        sibling counts if it is the first sense of its word; words with several senses come first, as others are rare.
        """
        senses = self._words.synsets(noun, pos="n")
        if not senses or senses[0].lexfile() not in _VISIBLE:
            return ()
        own = senses[0]
        if own.lexfile() == "noun.person":  # a musician may be a teacher, too; nobody looks like both
            return tuple(trade for trade in TRADES if own not in self._meant(trade))
        close = {lemma for sense in (*senses, *own.hyponyms(), *own.hypernyms()) for lemma in sense.lemmas()}
        siblings = [sibling for hypernym in own.hypernyms() for sibling in _few(hypernym.hyponyms())]
        words = sorted({other.lemmas()[0] for other in siblings if self._another(other, own, noun)} - close)
        return tuple([word for word in words if len(self._words.synsets(word)) > 1] or words)

    def _another(self, other: Synset, own: Synset, noun: str) -> bool:
        """Whether a sibling is a single word for another thing of the same sort."""
        word = other.lemmas()[0]
        if other.lexfile() != own.lexfile() or other in _with_hypernyms(own):
            return False
        if not _WORD.fullmatch(word) or word.endswith(noun) or noun.endswith(word):
            return False
        meant = self._meant(word)
        return meant[0] == other and own not in meant

    def _meant(self, word: str) -> list[Synset]:
        """The first sense of a noun, and its hypernyms."""
        first = self._words.synsets(word, pos="n")[:1]
        return [sense for each in first for sense in _with_hypernyms(each)]


def _few(senses: list[Synset]) -> list[Synset]:
    return senses if len(senses) <= _MOST else []


def _with_hypernyms(sense: Synset) -> list[Synset]:
    return [sense, *(above for path in sense.hypernym_paths() for above in path)]
