"""Co-hyponyms: nouns that share a hypernym, as a horse and a zebra do, from WordNet."""

from __future__ import annotations

import re

from ...errors import NbenchError

_WORD = re.compile(r"[a-z]{3,}")
_MOST = 40
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
        """Single words that are another kind of what the first sense of `noun` is a kind of, sorted."""
        senses = self._words.synsets(noun, pos="n")
        if not senses:
            return ()
        own = senses[0]
        close = {lemma for sense in (*senses, *own.hyponyms(), *own.hypernyms()) for lemma in sense.lemmas()}
        found: set[str] = set()
        for hypernym in own.hypernyms():
            siblings = [sense for sense in hypernym.hyponyms() if sense != own]
            if len(siblings) <= _MOST:
                found.update(lemma for sense in siblings for lemma in sense.lemmas()[:1] if _WORD.fullmatch(lemma))
        return tuple(sorted(found - close))
