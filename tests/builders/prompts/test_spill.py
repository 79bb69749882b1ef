"""Many prompts are read from disk by number, and are those that were kept."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest

from nbench.builders.build import build
from nbench.builders.config import BuildConfig
from nbench.builders.prompts import spill
from nbench.builders.prompts.choose import world_prompts
from nbench.builders.prompts.rows import Prompt

from ..test_build import files


def prompt(number: int) -> Prompt:
    return Prompt(f"{number:08d}", "a caption é" * 20, {"basic": ["scene"], "advanced": []}, {"colour": None})


def test_they_are_a_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill, "_IN_MEMORY", 5)
    assert spill.kept(map(prompt, range(5))) == [prompt(i) for i in range(5)]
    many = spill.kept(map(prompt, range(9)))
    assert not isinstance(many, list)
    assert (len(many), many[7], many[-1]) == (9, prompt(7), prompt(8))
    assert list(many) == list(many[:]) == [prompt(i) for i in range(9)]
    assert list(many[6:20]) == [prompt(6), prompt(7), prompt(8)]
    with pytest.raises(IndexError):
        many[9]


def test_memory_does_not_grow_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill, "_IN_MEMORY", 10)

    def peak(count: int) -> int:
        tracemalloc.start()
        assert len(spill.kept(map(prompt, range(count)))) == count
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(20)  # what is imported and cached once
    few, many = peak(1000), peak(5000)
    assert many - few < 4000 * 16


def test_a_build_of_many_is_that_of_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = BuildConfig("ncc", limit=3, steps=2, rows_per_shard=2)
    build(replace(config, out=tmp_path / "list"), progress=False)
    monkeypatch.setattr(spill, "_IN_MEMORY", 1)
    assert not isinstance(world_prompts("ncc", 3), spill._Spilled)
    build(replace(config, out=tmp_path / "disk"), progress=False)
    assert files(tmp_path / "disk") == files(tmp_path / "list")
