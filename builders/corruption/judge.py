"""Which answers of a language model are near misses of the requested kind."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from .change import Change
from .lexicon import COLOUR_OF, PLACE_PREPOSITIONS, QUANTIFIERS, SETTINGS, SUBJECTS
from .words import ARTICLES, meaning, number, singular, tokens

MOST_WORDS = 8
MOST_TOKENS = 2048
"""Longest reply. Its JSON has about 50; models that reason before it take hundreds."""
_BACKDROPS = frozenset(("background", "backdrop"))
_COUNTED = {"lone": 1, "both": 2, "couple": 2, "pair": 2, "dozen": 12}

_TASKS = {
    "subject": "Replace the main subject (the noun alone) by another thing of a similar kind.",
    "colour": "Replace the colour of the main subject by another colour.",
    "quantity": "Replace the number of main subjects by another number.",
    "background": "Replace the place or the background by another one.",
}
SYSTEM = (
    "You make near-miss captions of pictures. You change exactly one thing, so that the new caption is false for any "
    'picture of the old one. Answer with JSON: {"applicable": true, "before": the words of the caption to replace, '
    'copied exactly and as few as possible, "after": the words in their place}. Change nothing else, and use no '
    'synonym. If the caption does not state what is to be changed, answer {"applicable": false, "before": "", '
    '"after": ""}.'
)


class Answer(BaseModel):
    """The form of an answer that the model is asked for."""

    model_config = ConfigDict(extra="forbid", strict=True)

    applicable: bool
    before: str
    after: str


class Unfit(ValueError):
    """An answer that is not a near miss of the kind; the text says why."""


def schema() -> dict[str, Any]:
    """The JSON schema of an answer."""
    return Answer.model_json_schema()


def messages(caption: str, kind: str) -> list[dict[str, str]]:
    """The chat that asks for a near miss."""
    question = f"{_TASKS[kind]}\nCaption: {caption}"
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]


def judged(reply: str, text: str, kind: str) -> Change:
    """The change that a reply proposes, if it follows the rules.

    - The words to replace occur in the caption exactly once, so that nothing else can change.
    - Their replacement is not a paraphrase: without articles, plurals, spellings of a colour or a number and the
      lexicon's synonyms the two differ; so does the last word (the noun) where that is to change.
    - Only one kind of thing changes: one colour or one number to another and nothing else; a subject or a background
      keeps its colours and numbers (a background may be a colour), a subject is not a place, and a background follows a
      preposition of place.

    Raises:
        Unfit: the reply is malformed or breaks a rule.
    """
    try:
        answer = Answer.model_validate_json(_bare(reply))
    except ValidationError as error:
        raise Unfit(f"malformed: {error.errors()[0]['msg']}") from None
    if not answer.applicable:
        return Change(kind, "not applicable")
    before, after = answer.before.strip(), answer.after.strip()
    if not before or not after or len(tokens(after)) > MOST_WORDS or not after.isprintable():
        raise Unfit(f"words are missing, more than {MOST_WORDS}, or on several lines")
    places = [match.start() for match in re.finditer(rf"(?<!\w){re.escape(before)}(?!\w)", text)]
    if len(places) != 1:
        raise Unfit(f"{before!r} is {len(places)} times in the caption")
    if meaning(before) == meaning(after):
        raise Unfit(f"{after!r} means the same as {before!r}")
    _RULES[kind](before, after, text[: places[0]])
    caption = text[: places[0]] + after + text[places[0] + len(before) :]
    return Change.between(kind, text, caption)


def _bare(reply: str) -> str:
    """The JSON of a reply: models put it in a code fence, or reason first."""
    text = reply.rpartition("</think>")[2]
    return text[text.find("{") : text.rfind("}") + 1]


def _colour(before: str, after: str, ahead: str) -> None:
    old, new = _colours(before), _colours(after)
    if len(old) != 1 or len(new) != 1 or old == new:
        raise Unfit(f"{before!r} to {after!r} is not one colour to another")
    if _without(before, COLOUR_OF) != _without(after, COLOUR_OF):
        raise Unfit("more than the colour changes")


def _quantity(before: str, after: str, ahead: str) -> None:
    old, new = _numbers(before), _numbers(after)
    if not old or not new or old == new:
        raise Unfit(f"{before!r} to {after!r} is not one number to another")
    if _uncounted(before) != _uncounted(after):
        raise Unfit("more than the number changes")


def _subject(before: str, after: str, ahead: str) -> None:
    _same_attributes(before, after)
    if _head(before) == _head(after):
        raise Unfit("the noun stays")
    if PLACE_PREPOSITIONS & {*tokens(before), *tokens(after)}:
        raise Unfit("a subject is no place")
    if _head(before) in SETTINGS and _head(before) not in SUBJECTS:
        raise Unfit(f"{before!r} is a place")


def _background(before: str, after: str, ahead: str) -> None:
    if not PLACE_PREPOSITIONS & {*tokens(ahead)[-4:], *tokens(before)} and not _BACKDROPS & {*tokens(before)}:
        raise Unfit(f"{before!r} is no place")
    plain = len(_colours(before)) == len(_colours(after)) == 1 and _without(before, COLOUR_OF) == _without(
        after, COLOUR_OF
    )
    if plain:
        return
    _same_attributes(before, after)
    if _head(before) == _head(after):
        raise Unfit("the place stays")


def _same_attributes(before: str, after: str) -> None:
    if _colours(before) != _colours(after) or _numbers(before) != _numbers(after):
        raise Unfit("a colour or a number changes too")


def _head(text: str) -> str:
    words = meaning(text)
    return words[-1] if words else ""


def _colours(text: str) -> list[str]:
    return [COLOUR_OF[word] for word in tokens(text) if word in COLOUR_OF]


def _counts(word: str) -> bool:
    return number(word) is not None or word in QUANTIFIERS or word == "the"


def _numbers(text: str) -> list[str]:
    """Numbers and quantifiers; a or an counts as one, both as two, a dozen as twelve."""
    plain = re.sub(rf"\ba (?=(?:{'|'.join(_COUNTED)})\b)", "", text.lower())
    counted = (word for word in tokens(plain) if _counts(word) and word != "the")
    return [str(number(word) or _COUNTED.get(word) or word) for word in counted]


def _uncounted(text: str) -> list[str]:
    return [singular(word) for word in tokens(text) if not _counts(word)]


def _without(text: str, words: dict[str, str]) -> list[str]:
    return [word for word in tokens(text) if word not in words and word not in ARTICLES]


_RULES = {"subject": _subject, "colour": _colour, "quantity": _quantity, "background": _background}
