"""The leak check against Jaccard by brute force, and every way that a caption can leak."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nbench.builders.prompts.leakage import (
    PROMPT,
    Leak,
    bands,
    captions_of,
    check_leak,
    jaccard,
    normalise,
    shingles,
)
from nbench.builders.prompts.rows import Prompt
from nbench.errors import NbenchError
from nbench.shards.reader import Bench
from nbench.shards.schema import CORRUPTION_KINDS

from ...small_bench import PROMPTS, Quality

BENCH = [
    Prompt("b0", "A red cube on a field, beside two dogs.", corruptions={"colour": "A blue cube on a field."}),
    Prompt("b1", "three people under an umbrella in the rain"),
    Prompt("b2", "🐱"),
]


def leak_of(*texts: str, threshold: float = 0.8) -> tuple[Leak, ...]:
    train = [Prompt(f"t{number}", text) for number, text in enumerate(texts)]
    return check_leak(train, BENCH, threshold).leaks


def test_each_kind_of_leak_is_found_and_named() -> None:
    (exact,) = leak_of("a dog", BENCH[0].text)
    assert (exact.prompt_id, exact.caption, exact.kind, exact.similarity) == ("b0", PROMPT, "exact", 1.0)
    assert (exact.train_id, exact.train_text, exact.count) == ("t1", BENCH[0].text, 1)
    (same,) = leak_of("  a RED cube on\ta ﬁeld -- beside “two” dogs")
    assert (same.prompt_id, same.kind) == ("b0", "normalised")
    (near,) = leak_of("three people under an umbrella in the rain today")
    assert (near.prompt_id, near.kind) == ("b1", "near")
    assert near.similarity == pytest.approx(38 / 44)  # 38 shingles of the prompt, six more of the caption
    (corruption,) = leak_of("a blue cube on a field")
    assert (corruption.prompt_id, corruption.caption, corruption.kind) == ("b0", "colour", "normalised")


def test_the_closest_match_is_told_and_all_are_counted() -> None:
    text = BENCH[1].text
    (leak,) = leak_of(f"{text} today", text.upper(), text, f"{text}!", "a dog")
    assert (leak.kind, leak.train_id, leak.count) == ("exact", "t2", 4)
    report = check_leak([Prompt("t", text), Prompt("u", "A blue cube on a field.")], BENCH)
    assert report.counts() == {"exact": 1, "normalised": 0, "near": 0, "corruption": 1}
    assert (report.n_train, report.n_prompts, report.n_corruptions) == (2, 3, 1)


def test_what_only_resembles_is_no_leak() -> None:
    assert leak_of("three people", "A red cube", "two dogs", "🐶", "") == ()


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.95, 1.0])
def test_near_duplicates_are_those_of_brute_force(threshold: float) -> None:
    dice = random.Random(0)
    words = [f"{letter}{number}" for letter in "abcdefgh" for number in range(10)]
    bench = [Prompt(str(number), " ".join(dice.choices(words, k=12))) for number in range(60)]
    train = []
    for number in range(600):
        changed = dice.choice(bench).text.split()
        for _ in range(dice.randrange(6)):
            changed[dice.randrange(12)] = dice.choice(words)
        train.append(Prompt(f"t{number}", " ".join(changed)))
    leaks = check_leak(train, bench, threshold).leaks
    sets = {prompt.id: set(shingles(normalise(prompt.text))) for prompt in [*bench, *train]}
    expected = {}
    for one in bench:
        near = [jaccard(sets[one.id], set(shingles(normalise(other.text)))) for other in train]
        if close := [value for value in near if value >= threshold]:
            expected[one.id] = (len(close), max(close))
    assert expected
    assert {leak.prompt_id: (leak.count, leak.similarity) for leak in leaks} == expected


@pytest.mark.parametrize("threshold", [0.05, 0.1, 0.5, 0.7, 0.8, 0.9, 0.99, 1.0])
def test_bands_find_a_pair_at_the_threshold_unless_rows_are_at_their_fewest(threshold: float) -> None:
    rows = 128 // bands(threshold)
    missed = (1 - threshold**rows) ** bands(threshold)
    assert missed <= 1e-3 or rows == 1
    assert (1 - threshold ** (2 * rows)) ** (64 // rows) > 1e-3 or rows == 128


def test_marks_of_other_scripts_are_letters() -> None:
    assert normalise("Ｃａｆé, किताब!") == "café किताब"
    assert normalise("कि") != normalise("की")
    assert normalise("🐱") != normalise("🐶")


def test_memory_does_not_grow_with_the_training_set() -> None:
    def train(count: int) -> Iterator[Prompt]:
        return (Prompt(str(number), f"caption number {number} of a set that never ends") for number in range(count))

    def peak(count: int) -> int:
        tracemalloc.start()
        check_leak(train(count), BENCH)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(2000)
    assert peak(8000) < 1.1 * peak(2000)


def test_captions_come_from_data_sets_files_and_the_world(small_bench: tuple[Bench, Quality], tmp_path: Path) -> None:
    prompts = list(captions_of(str(small_bench[0].path)))
    assert [prompt.text for prompt in prompts] == [f"prompt {number}" for number in range(PROMPTS)]
    file = tmp_path / "captions.jsonl"
    changed = {kind: f"a {kind}" for kind in CORRUPTION_KINDS}
    file.write_text(json.dumps({"id": "x", "prompt": "a dog", "corruptions": changed}))
    assert list(captions_of(str(file))) == [Prompt("x", "a dog", corruptions=changed)]
    world = list(captions_of("shapes"))
    assert check_leak(world, [replace(world[7], id="b")]).counts()["exact"] == 1


def test_bad_input_is_told() -> None:
    with pytest.raises(NbenchError, match=r"--threshold 1\.5"):
        check_leak(BENCH, BENCH, 1.5)
    with pytest.raises(NbenchError, match="--threshold nan"):
        check_leak(BENCH, BENCH, float("nan"))
    with pytest.raises(NbenchError, match="training set has no captions"):
        check_leak([], BENCH)
    with pytest.raises(NbenchError, match="bench has no prompts"):
        check_leak(BENCH, [])
    with pytest.raises(NbenchError, match="no prompts 'nowhere'"):
        captions_of("nowhere")


def test_without_the_package_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rensa", None)
    with pytest.raises(NbenchError, match=r"nbench\[leak\]"):
        check_leak(BENCH, BENCH)
