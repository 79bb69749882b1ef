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
from nbench.scorers.decoders import preview
from nbench.scorers.protocols import PairScorer
from nbench.scorers.registry import get_scorer
from nbench.shards.reader import Bench, open_bench
from nbench.shards.references import finished_scores
from nbench.shards.scores import scores_at
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_gain_on_a_bench_is_logged(config: X0VQAConfig, signals: Bench) -> None:
    """Before training it is the frozen model's: that of its best candidates at the position, counted here by hand."""
    bench = X0VQAConfig(signals.path, config.out, "5", epochs=1, bench=signals.path, bench_reference="clip")
    log = (train(replace(bench, batch_size=8), shown=False) / "train.jsonl").read_text().splitlines()
    frozen = get_scorer("x0-preview:vqascore", signals.info)
    assert isinstance(frozen, PairScorer)
    assert signals.info.preview is not None
    judged = scores_at(finished_scores(signals, "clip"), 10)
    chosen, best, mean = list[float](), list[float](), list[float]()
    for batch in signals.batches([5], signals=["x0"]):
        assert batch.x0 is not None
        scores = frozen.score(preview(torch.tensor(batch.x0[5]), signals.info.preview), batch.prompts)
        rows = [
            [row for row, own in enumerate(batch.prompt_ids) if own == name] for name in dict.fromkeys(batch.prompt_ids)
        ]
        for own in rows:
            values = [judged[batch.prompt_ids[row], batch.candidates[row]] for row in own]
            chosen.append(values[int(scores[own].argmax())])
            best.append(max(values))
            mean.append(sum(values) / len(values))
    gain = (sum(chosen) - sum(mean)) / (sum(best) - sum(mean))
    assert json.loads(log[0])["recovered_gain"] == pytest.approx(gain, abs=1e-4)


def test_what_cannot_work_is_refused(config: X0VQAConfig, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    build(BuildConfig("ncc", out=bare, limit=2, steps=4, positions="2:3"), progress=False)
    with pytest.raises(NbenchError, match="x0 not in this bench"):
        train(replace(config, data=bare, positions="2:3"), shown=False)
    with pytest.raises(NbenchError, match="is not a BlipForQuestionAnswering"):
        train(replace(config, start=str(WORLD_PIPELINE.parent / "clip")), shown=False)
