"""What a build is asked for, and its fingerprint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nbench.builders.config import BuildConfig
from nbench.builders.prompts.choose import Prompt
from nbench.builders.spec import build_spec
from nbench.errors import NbenchError
from nbench.pipelines.aliases import PipelineEntry
from nbench.pipelines.options import PipelineOptions
from nbench.shards.fingerprint import fingerprint

ENTRY = PipelineEntry("toy", "/nowhere/toy", content="c0ffee", guidance=1.5, call_kwargs={"max_sequence_length": 2})
PROMPTS = [Prompt("0", "a cat", {"basic": ["attribute"], "advanced": []}), Prompt("1", "a dog")]
CONFIG = BuildConfig("genai-bench", positions="20,30")
GOLDEN = "3ecb2b0b5cb210f9bf7c11abca47f917915d4238d015085b00935de2d24c9668"


def _fingerprint(config: BuildConfig = CONFIG, entry: PipelineEntry = ENTRY, prompts: list[Prompt] = PROMPTS) -> str:
    return fingerprint(build_spec(config, entry, prompts))


def test_golden() -> None:
    """Whoever changes this makes every build on every disk unresumable: raise FINGERPRINT_VERSION and say so."""
    assert _fingerprint() == GOLDEN


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "ncc"},
        {"steps": 40},
        {"options": PipelineOptions(guidance=2.0)},
        {"candidates": 5},
        {"positions": "20,31"},
        {"dtype": "float16"},
        {"seed": 1},
        {"rows_per_shard": 10},
    ],
)
def test_what_changes_the_output_counts(change: dict[str, Any]) -> None:
    assert _fingerprint(replace(CONFIG, **change)) != GOLDEN


def test_pipeline_and_prompts_count() -> None:
    other = [
        _fingerprint(entry=replace(ENTRY, content="c0ffef")),
        _fingerprint(entry=replace(ENTRY, scheduler="EulerDiscreteScheduler")),
        _fingerprint(entry=replace(ENTRY, call_kwargs={})),
        _fingerprint(prompts=PROMPTS[:1]),
        _fingerprint(prompts=[PROMPTS[0], replace(PROMPTS[1], text="a cow")]),
        _fingerprint(prompts=[PROMPTS[0], replace(PROMPTS[1], id="2")]),
    ]
    assert len({*other, GOLDEN}) == len(other) + 1


def test_what_does_not_change_the_output_does_not_count() -> None:
    config = replace(
        CONFIG, batch_size=3, out=Path("elsewhere"), pipeline="x", fresh=True, references=("clip",), candidates=6
    )
    assert _fingerprint(config) == GOLDEN
    assert _fingerprint(entry=replace(ENTRY, name="renamed", source="/moved", batch_size=99)) == GOLDEN
    assert (
        _fingerprint(replace(CONFIG, positions="30,20,50", options=PipelineOptions(guidance=1.5), dtype="float32"))
        == GOLDEN
    )


def test_defaults() -> None:
    ncc = BuildConfig("ncc", positions="20:30:5")
    assert (CONFIG.folder, CONFIG.n_candidates) == (Path("data/noisy-genai-bench"), 6)
    assert (ncc.folder, ncc.n_candidates) == (Path("data/ncc"), 1)
    assert (CONFIG.stored, ncc.stored) == ((20, 30, 50), (20, 25, 30))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"limit": 0}, "--limit 0 is out of range"),
        ({"batch_size": -1}, "--batch-size -1"),
        ({"rows_per_shard": 0}, "--rows-per-shard 0"),
        ({"dtype": "float8"}, "unknown dtype 'float8'"),
        ({"positions": "60"}, r"latents 60 not in a run of 50 steps: it has 0\.\.50"),
    ],
)
def test_senseless_values(change: dict[str, Any], message: str) -> None:
    with pytest.raises(NbenchError, match=message):
        replace(CONFIG, **change)
