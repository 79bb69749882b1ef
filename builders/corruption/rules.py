"""Near misses by a dependency parse (spaCy), lexicons, and for other words co-hyponyms from WordNet."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ...errors import NbenchError
from .change import Change
from .lexicon import (
    COLLECTIVES,
    COLOUR_OF,
    COLOURS,
    MEDIA,
    NUMERALS,
    PARTS,
    PLACE_PREPOSITIONS,
    QUANTIFIERS,
    SETTINGS,
    SMALL,
    SUBJECTS,
)
from .words import ARTICLES, article, cased, number, plural, plural_verb

if TYPE_CHECKING:
    from spacy.tokens import Doc, Token

    from .wordnet import CoHyponyms

MODEL = "en_core_web_sm"
_BATCH = 256
_MODIFIERS = ("amod", "compound", "nmod")
_Edits = dict[int, str]


class RulesEngine:
    """Changes words of the main subject or of its setting, and what agrees with them: plurals, verbs and articles.

    The same caption and seed give the same near misses, whatever else is in the run.

    Raises:
        NbenchError: spaCy or its model is not installed.
    """

    name = "rules"

    def __init__(self, seed: int, model: str = MODEL, wordnet: CoHyponyms | None = None) -> None:
        self._seed, self._wordnet, self._parser = seed, wordnet, _parser(model)
        self._of_subject: dict[str, Callable[[Doc, Token, random.Random], _Edits]] = {
            "subject": self._subject,
            "colour": _colour,
            "quantity": _quantity,
        }

    def changes(self, captions: Sequence[str], kinds: Sequence[str]) -> Iterator[list[Change]]:
        for doc in self._parser.pipe(captions, batch_size=_BATCH):
            subject = _main_subject(doc)
            yield [self._change(doc, subject, kind) for kind in kinds]

    def _change(self, doc: Doc, subject: Token | None, kind: str) -> Change:
        rng = random.Random(f"{self._seed}|{kind}|{doc.text}")
        edits: _Edits = {}
        if kind == "background":
            edits = _background(doc, subject, rng)
        elif subject is not None:
            edits = self._of_subject[kind](doc, subject, rng)
        return Change.between(kind, doc.text, _edited(doc, edits)) if edits else Change(kind, "not applicable")

    def _subject(self, doc: Doc, subject: Token, rng: random.Random) -> _Edits:
        noun = subject.lemma_.lower()
        others = SUBJECTS.get(noun) or SETTINGS.get(noun, ())
        if not others and self._wordnet is not None and subject.pos_ == "NOUN":
            others = self._wordnet.of(noun)
        options = [other for other in others if other not in {token.lemma_.lower() for token in doc}]
        if not options:
            return {}
        fitting = [child for child in subject.lefts if child.dep_ == "compound" and child.lower_ not in COLOUR_OF]
        return _noun_edits(subject, rng.choice(options), fitting)


def _parser(model: str) -> Any:
    try:
        import spacy
    except ImportError:
        raise NbenchError("--engine rules needs spaCy: pip install 'nbench[rules]'") from None
    try:
        return spacy.load(model, exclude=["ner"])
    except OSError:
        pass
    try:  # a model that is installed as a package of another name
        return __import__(model).load(exclude=["ner"])
    except (ImportError, AttributeError):
        raise NbenchError(
            f"spaCy has no model {model!r}: python -m spacy download {MODEL}, or name another with --spacy-model"
        ) from None


def _main_subject(doc: Doc) -> Token | None:
    """The noun a caption is about: its root, or the root's subject, through "a photo of" and "a group of"."""
    root = next((token for token in doc if token.dep_ == "ROOT"), None)
    if root is not None and root.pos_ in ("VERB", "AUX"):
        expletive = any(child.dep_ == "expl" for child in root.children)
        wanted = ("attr", "dobj", "nsubj") if expletive else ("nsubj", "nsubjpass")
        root = next((child for child in root.children if child.dep_ in wanted), None)
    while root is not None and root.lemma_.lower() in MEDIA | COLLECTIVES:
        below = [
            *root.children,
            *(token for child in root.children if child.lower_ == "up" for token in child.children),
        ]
        of = next((child for child in below if child.lower_ == "of"), None)
        inner = next((child for child in of.children if child.dep_ == "pobj"), None) if of is not None else None
        if inner is None:
            break
        root = inner
    return root if root is not None and root.pos_ in ("NOUN", "PROPN") else None


def _colour(doc: Doc, subject: Token, rng: random.Random) -> _Edits:
    places = [child for child in subject.children if child.dep_ in _MODIFIERS and child.i < subject.i]
    places += [other for place in places for other in place.conjuncts if other.i < subject.i]
    if subject.dep_ in ("nsubj", "nsubjpass") and subject.head.pos_ in ("AUX", "VERB"):
        places += [child for child in subject.head.children if child.dep_ == "acomp"]
    shown = sorted((place for place in places if place.lower_ in COLOUR_OF), key=lambda token: token.i)
    return _other_colour(doc, shown[0], rng) if shown else {}


def _other_colour(doc: Doc, place: Token, rng: random.Random) -> _Edits:
    used = {COLOUR_OF.get(token.lower_) for token in doc}
    options = [colour for colour in COLOURS if colour not in used]
    return {place.i: cased(rng.choice(options), place.text)} if options else {}


def _quantity(doc: Doc, subject: Token, rng: random.Random) -> _Edits:
    before = [subject.left_edge, *subject.lefts]  # the parser hangs some articles on the adjective that follows
    counts = [token for token in before if number(token.lower_) is not None and token.i < subject.i]
    if not counts or any(child.lower_ in QUANTIFIERS - {"both"} for child in subject.lefts):
        return {}
    place = counts[-1]
    value = number(place.lower_)
    used = {number(token.lower_) for token in doc}
    options = [n for n in range(2, SMALL + 1) if n not in used]
    many = _is_plural(subject)
    if not options or value == 0 or (value == 1) == many:  # "one dogs": misread
        return {}
    new = rng.choice(options)
    like = subject.text if place.text == "A" and subject.text.isupper() else place.text
    word = str(new) if place.text.isdigit() else cased(NUMERALS[new - 2], like)
    if many:
        return {place.i: word}
    edits = {place.i: word, subject.i: cased(plural(subject.lemma_.lower()), subject.text)}
    for verb in _verbs(subject):
        if verb.tag_ == "VBZ" or verb.lower_ == "was":
            edits[verb.i] = cased(plural_verb(verb.text, verb.lemma_), verb.text)
    if subject.i + 1 not in edits and doc[subject.i + 1 : subject.i + 2].text in ("'s", "\u2019s"):
        return {}  # a verb that was read as a genitive
    return edits


def _is_plural(noun: Token) -> bool:
    """Whether a noun means several; a numeral decides where singular and plural are the same."""
    if noun.tag_ in ("NNS", "NNPS"):
        return True
    same = plural(noun.lemma_.lower()) == noun.lower_
    return same and any((number(child.lower_) or 0) > 1 for child in noun.lefts)


def _verbs(subject: Token) -> list[Token]:
    """The verbs that agree with the subject."""
    heads = [child for child in subject.children if child.dep_ == "relcl"]
    if subject.dep_ in ("nsubj", "nsubjpass", "attr", "dobj"):
        heads += [subject.head, *(verb for verb in subject.head.conjuncts if not _has_subject(verb))]
    return [verb for head in heads for verb in (head, *(c for c in head.children if c.dep_ in ("aux", "auxpass")))]


def _has_subject(verb: Token) -> bool:
    return any(child.dep_ in ("nsubj", "nsubjpass") for child in verb.children)


def _background(doc: Doc, subject: Token | None, rng: random.Random) -> _Edits:
    for place in doc:
        if place == subject or not _is_place(place):
            continue
        if place.lemma_.lower() in ("background", "backdrop"):
            shown = [child for child in place.lefts if child.lower_ in COLOUR_OF]
            if shown:
                return _other_colour(doc, shown[0], rng)
        elif others := SETTINGS.get(place.lemma_.lower()):
            used = {token.lemma_.lower() for token in doc}
            if options := [other for other in others if other not in used]:
                fitting = [child for child in place.lefts if child.dep_ in ("amod", "compound")]
                return _noun_edits(place, rng.choice(options), fitting)
    return {}


def _is_place(noun: Token) -> bool:
    """Whether it follows a preposition of place, or "in front of" and the like."""
    if noun.dep_ != "pobj":
        return False
    if noun.head.lower_ == "of" and noun.head.head.lower_ in PARTS:
        noun = noun.head.head
    return noun.head.lower_ in PLACE_PREPOSITIONS


def _noun_edits(noun: Token, new: str, fitting: Sequence[Token]) -> _Edits:
    """Another noun in the same number, without the modifiers that only fitted the old one."""
    edits = {noun.i: cased(plural(new) if _is_plural(noun) else new, noun.text)}
    gone = [token.i for modifier in fitting if modifier.lower_ not in ARTICLES for token in modifier.subtree]
    if gone and min(gone) and not noun.doc[min(gone) - 1].whitespace_:
        return {}  # "b/w dog": the parser divides what is one word
    return edits | dict.fromkeys(gone, "")


def _edited(doc: Doc, edits: _Edits) -> str:
    """The text with the edits, and with a or an to suit the words that now follow."""
    kept = [token for token in doc if edits.get(token.i) != ""]
    pieces = []
    for token, following in zip(kept, [*kept[1:], None], strict=True):
        text = edits.get(token.i, token.text)
        changed = following is not None and (following.i in edits or following.i != token.i + 1)
        if following is not None and changed and token.lower_ in ("a", "an") and token.i not in edits:
            text = cased(article(edits.get(following.i, following.text)), token.text)
        pieces.append(text + token.whitespace_)
    return "".join(pieces)
