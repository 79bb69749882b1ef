"""Training NoisyCLIP on a small, real NCC: it learns, keeps the text tower, resumes, and refuses invalid input."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from transformers import CLIPModel

from nbench.builders.build import build
from nbench.builders.config import BuildConfig
from nbench.errors import NbenchError
from nbench.pipelines.aliases import WORLD_PIPELINE
from nbench.scorers.clip import CLIPScorer
from nbench.shards.lock import locked
from nbench.training import finetune
from nbench.training.config import TrainConfig
from nbench.training.noisyclip import train


@pytest.fixture(scope="module")
def ncc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ncc") / "ncc"
    build(BuildConfig("ncc", out=out, limit=64, steps=10, positions="4:6"), progress=False)
    return out


@pytest.fixture
def config(ncc: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig(ncc, tmp_path / "noisyclip", "4:6", epochs=3, batch_size=16, learning_rate=3e-4)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return CLIPModel.from_pretrained(folder, dtype=torch.float32).state_dict()


@pytest.mark.parametrize("targets", ["image", "caption"])
def test_only_the_image_tower_learns(config: TrainConfig, targets: Literal["image", "caption"]) -> None:
    out = train(replace(config, targets=targets, epochs=10), shown=False)
    log = [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in log] == list(range(11))
    losses = [line["loss"] for line in log[1:]]
    assert sum(losses[-3:]) < 0.95 * sum(losses[:3])  # a few batches each, at positions drawn anew: single ones scatter
    before, after = weights(WORLD_PIPELINE.parent / "clip"), weights(out)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith(("vision_model.", "visual_projection.")) for name in changed)
    assert not (out / "checkpoint.pt").exists()


def test_the_result_is_a_scorer(config: TrainConfig) -> None:
    scorer = CLIPScorer(train(config, shown=False), "mine")
    assert scorer.embed_inputs(torch.rand(2, 3, 16, 16)).shape == scorer.embed_text(["one red circle", "x"]).shape


def test_an_interrupted_run_ends_with_the_same_weights(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(config, shown=False)
    again = replace(config, out=config.out.with_name("cut"))
    epoch = finetune.FineTuning.epoch

    def cut(self: finetune.FineTuning, number: int) -> tuple[float, float]:
        if number == 2:
            raise KeyboardInterrupt
        return epoch(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(finetune.FineTuning, "epoch", cut)
        with pytest.raises(KeyboardInterrupt):
            train(again, shown=False)
    assert (again.out / "checkpoint.pt").is_file()
    train(again, shown=False)
    assert (again.out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_files_that_were_cut_short_are_refused_and_can_be_removed(config: TrainConfig) -> None:
    config = replace(config, epochs=1)
    out = train(config, shown=False)
    (out / "training.json").write_text('{"positions": [4,')
    with pytest.raises(NbenchError, match=r"training\.json is damaged: remove it"):
        train(config, shown=False)
    (out / "training.json").unlink()
    (out / "checkpoint.pt").write_bytes(b"PK half")
    with pytest.raises(NbenchError, match=r"checkpoint\.pt is damaged .*remove it"):
        train(config, shown=False)
    (out / "checkpoint.pt").unlink()
    train(config, shown=False)
    (out / "checkpoint.pt").write_bytes(b"left by a run that was killed before it removed this")
    train(config, shown=False)
    assert not (out / "checkpoint.pt").exists()


def test_a_folder_has_one_training_at_a_time(config: TrainConfig) -> None:
    with locked(config.out, "held"), pytest.raises(NbenchError, match="another training is writing to"):
        train(config, shown=False)


def test_a_finished_run_costs_nothing_and_another_is_refused(config: TrainConfig) -> None:
    out = train(config, shown=False)
    written = (out / "model.safetensors").stat().st_mtime_ns
    train(config, shown=False)
    assert (out / "model.safetensors").stat().st_mtime_ns == written
    with pytest.raises(NbenchError, match="holds another trained model"):
        train(replace(config, seed=1), shown=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": "8"}, "latents 8 not in this bench"),
        ({"start": "no/such/model"}, "no model no/such/model"),
        ({"batch_size": 128}, "too few rows"),
    ],
)
def test_bad_input(
    config: TrainConfig, change: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(NbenchError, match=message):
        train(replace(config, **change), shown=False)  # type: ignore[arg-type]


def test_invalid_settings(tmp_path: Path) -> None:
    with pytest.raises(NbenchError, match="at least 1 epoch"):
        TrainConfig(tmp_path, tmp_path, epochs=0)
