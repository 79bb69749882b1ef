"""Texts are new once."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from nbench.builders.prompts.seen import SeenTexts


def test_texts_are_new_once_as_in_a_set() -> None:
    rng = random.Random(0)
    seen, expected = SeenTexts(), set[str]()
    for _ in range(50_000):
        text = f"{rng.randrange(30_000)}" * rng.randrange(3)
        assert seen.add(text) == (text not in expected)
        expected.add(text)


@pytest.mark.slow
def test_many_long_texts_take_little_memory() -> None:
    seen = SeenTexts()
    tracemalloc.start()
    for number in range(200_000):
        assert seen.add(f"conceptual-captions-{number:060d}")
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken < 200_000 * 100  # most of it for 65,536 buckets; as text alone they would take 130 bytes each
