"""English for changed words: plurals, articles, agreement, and whether two phrases mean the same."""

from __future__ import annotations

import re

from .lexicon import COLOUR_OF, NUMBER_OF, SAME_AS

ARTICLES = frozenset(("a", "an", "the"))
_IRREGULAR = {
    "man": "men",
    "woman": "women",
    "child": "children",
    "person": "people",
    "mouse": "mice",
    "goose": "geese",
    "foot": "feet",
    "tooth": "teeth",
    "ox": "oxen",
    "bus": "buses",
    "pie": "pies",
    "cactus": "cacti",
    "octopus": "octopuses",
    "axe": "axes",
    **{word: word for word in ("sheep", "deer", "fish", "aircraft", "grass", "snow", "sand", "mud")},
    **{
        word: re.sub("fe?$", "ves", word)
        for word in ("wolf", "knife", "leaf", "shelf", "loaf", "calf", "wife", "scarf")
    },
    **{word: word + "es" for word in ("tomato", "potato", "volcano", "hero", "mosquito", "mango")},
}
_SINGULAR = {irregular: noun for noun, irregular in _IRREGULAR.items()}
_COMPOUNDED = ("man", "child", "mouse", "fish", "deer", "shelf", "knife", "leaf", "loaf", "wife")
_REGULAR = ("human", "german", "roman", "shaman", "talisman", "ottoman", "specimen", "regimen", "abdomen", "omen")
_VERBS = {"is": "are", "was": "were", "has": "have", "'s": " are", "does": "do"}
_VOWEL_SOUND = re.compile(r"[aeio]|u(?!ni|s[eu])|hour|honest|heir", re.IGNORECASE)
_CONSONANT_SOUND = re.compile(r"(?:one\b|once\b|eu|ewe)", re.IGNORECASE)


def plural(noun: str) -> str:
    """`boxes` of box."""
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    for end in _COMPOUNDED:  # "snowman", "bookshelf"
        if noun.endswith(end) and noun not in _REGULAR:
            return noun.removesuffix(end) + _IRREGULAR[end]
    if re.search(r"(?:s|x|z|ch|sh)$", noun):
        return noun + "es"
    return noun[:-1] + "ies" if re.search(r"[^aeiou]y$", noun) else noun + "s"


def singular(noun: str) -> str:
    """`box` of boxes; a noun that is not a plural stays."""
    if noun in _SINGULAR:
        return _SINGULAR[noun]
    for end in _COMPOUNDED:
        if noun.endswith(_IRREGULAR[end]) and noun not in _REGULAR:
            return noun.removesuffix(_IRREGULAR[end]) + end
    if re.search(r"[^aeiou]ies$", noun):
        return noun[:-3] + "y"
    if re.search(r"(?:ss|x|z|ch|sh)es$", noun):
        return noun[:-2]
    return noun[:-1] if re.search(r"[^su]s$", noun) else noun


def plural_verb(verb: str, lemma: str) -> str:
    """The plural form of a verb in the third person singular."""
    return _VERBS.get(verb.lower(), lemma)


def article(word: str) -> str:
    """`a` or `an`, as `word` sounds."""
    return "an" if _VOWEL_SOUND.match(word) and not _CONSONANT_SOUND.match(word) else "a"


def cased(word: str, like: str) -> str:
    """`word` with a capital where `like` has one."""
    if len(like) > 1 and like.isupper():
        return word.upper()
    return word[:1].upper() + word[1:] if like[:1].isupper() else word


def tokens(text: str) -> list[str]:
    """Words in lower case, without punctuation."""
    return re.findall(r"[\w'-]+", text.lower())


def number(word: str) -> int | None:
    """What a numeral says, in letters or digits."""
    return int(word) if word.isascii() and word.isdigit() else NUMBER_OF.get(word)


def meaning(text: str) -> list[str]:
    """The words of a phrase, such that phrases which describe the same picture are equal.

    Without articles, in the singular, numerals as digits, shades as their colour, synonyms of the lexicon as one word.
    """
    words = []
    for word in tokens(text):
        if word in ARTICLES:
            continue
        noun = singular(word)
        value = number(word)
        words.append(str(value) if value is not None else COLOUR_OF.get(word, SAME_AS.get(noun, noun)))
    return words
