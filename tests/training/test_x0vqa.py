"""A VQA model fine-tuned on x0 estimates comes closer to the frozen model's answer for the finished image."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nbench.builders.build import build
from nbench.builders.config import BuildConfig
from nbench.errors import NbenchError
from nbench.pipelines.aliases import WORLD_PIPELINE
from nbench.scorers.registry import get_scorer
from nbench.shards.reader import open_bench
from nbench.training.config import X0VQAConfig
from nbench.training.x0vqa import train


@pytest.fixture(scope="module")
def ncc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ncc") / "ncc"
    signals = ("latent", "x0", "image")
    build(BuildConfig("ncc", out=out, limit=64, steps=10, positions="2:4", signals=signals), progress=False)
    return out


@pytest.fixture
def config(ncc: Path, tmp_path: Path) -> X0VQAConfig:
    return X0VQAConfig(ncc, tmp_path / "x0-vqa", "2:4", epochs=2, batch_size=16, learning_rate=3e-4)


def test_it_learns_and_scores(config: X0VQAConfig) -> None:
    out = train(replace(config, epochs=8), shown=False)
    log = [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in log[1:]]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    scorer = get_scorer(f"x0-preview:vqascore:{out}", open_bench(config.data).info)
    assert scorer.reads == "x0_preview"
    scores = scorer.score(torch.rand(2, 3, 16, 16), ["one red circle", "two blue squares"])  # type: ignore[attr-defined]
    assert ((scores >= 0) & (scores <= 1)).all()
    assert json.loads((out / "training.json").read_text())["input"] == "x0_preview"


def test_what_cannot_work_is_refused(config: X0VQAConfig, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    build(BuildConfig("ncc", out=bare, limit=2, steps=4, positions="2:3"), progress=False)
    with pytest.raises(NbenchError, match="x0 not in this bench"):
        train(replace(config, data=bare, positions="2:3"), shown=False)
    with pytest.raises(NbenchError, match="is not a BlipForQuestionAnswering"):
        train(replace(config, start=str(WORLD_PIPELINE.parent / "clip")), shown=False)
