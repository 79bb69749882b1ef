"""Training NoisyCLIP on a small, real NCC: it learns, keeps the text tower, resumes, and refuses invalid input."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPModel

from nbench.builders.build import build
from nbench.builders.config import BuildConfig
from nbench.errors import NbenchError
from nbench.pipelines.aliases import WORLD_PIPELINE
from nbench.scorers.clip import CLIPScorer
from nbench.shards.lock import locked
from nbench.training import learner, trainer
from nbench.training.checkpoints import last_checkpoint
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


@pytest.mark.slow
@pytest.mark.parametrize("targets", ["image", pytest.param("caption", marks=pytest.mark.slow)])
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
    assert not list(out.glob("checkpoint-*"))


@pytest.mark.slow
def test_the_result_is_a_scorer(config: TrainConfig) -> None:
    scorer = CLIPScorer(train(config, shown=False), "mine")
    assert scorer.embed_inputs(torch.rand(2, 3, 16, 16)).shape == scorer.embed_text(["one red circle", "x"]).shape


@pytest.mark.slow
def test_a_model_that_was_trained_here_can_be_trained_further(config: TrainConfig, tmp_path: Path) -> None:
    latent = replace(config, input="latent", noise_level="token", objective="contrast,distill", deepen=2, epochs=1)
    first = train(latent, shown=False)
    with pytest.raises(NbenchError, match="leave out --deepen"):
        train(replace(latent, start=str(first), out=tmp_path / "deeper"), shown=False)
    further = replace(latent, deepen=1, start=str(first), out=tmp_path / "further", learning_rate=1e-9)
    second = train(further, shown=False)
    before, after = (load_file(folder / "model.safetensors") for folder in (first, second))
    for name, values in before.items():
        torch.testing.assert_close(after[name], values, atol=1e-4, rtol=1e-2)
    last, fresh = (
        json.loads((folder / "train.jsonl").read_text().splitlines()[line])["loss"]
        for folder, line in ((first, -1), (second, 1))
    )
    assert fresh == pytest.approx(last, rel=0.35)  # the teacher is frozen CLIP again, not the model itself
    with pytest.raises(NbenchError, match="was trained with --input latent, --noise-level token: give the same"):
        train(replace(further, out=tmp_path / "other", noise_level="none"), shown=False)


class Cut(Exception):
    """Stands for a kill."""


def cut_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Let training end in `Cut` instead of step number `steps`."""
    compute, taken = trainer.FineTuner.compute_loss, []

    def until(self: Any, *args: Any, **settings: Any) -> Any:
        taken.append(1)
        if len(taken) > steps:
            raise Cut
        return compute(self, *args, **settings)

    monkeypatch.setattr(trainer.FineTuner, "compute_loss", until)


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "save_every"), [pytest.param(8, None, marks=pytest.mark.slow), (6, 1)])
def test_an_interrupted_run_ends_with_the_same_weights_and_curve(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, steps: int, save_every: int | None
) -> None:
    whole = train(config, shown=False)
    again = replace(config, out=config.out.with_name("cut"), save_every=save_every)
    with monkeypatch.context() as patch:
        cut_after(patch, steps)
        with pytest.raises(Cut):
            train(again, shown=False)
    assert list(again.out.glob("checkpoint-*"))
    train(again, shown=False)
    resumed, expected = weights(again.out), weights(whole)
    for name, values in expected.items():  # stored in half precision
        torch.testing.assert_close(resumed[name], values, atol=2e-4, rtol=2e-3)
    assert curve(again.out) == [pytest.approx(line, abs=2e-5) for line in curve(whole)]
    assert not list(again.out.glob("checkpoint-*"))


@pytest.mark.slow
def test_a_run_cut_while_it_writes_the_model_finishes(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(*args: Any) -> None:
        raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(learner, "save_half", cut)
        with pytest.raises(Cut):
            train(replace(config, epochs=1), shown=False)
    steps = []
    monkeypatch.setattr(trainer.FineTuner, "compute_loss", lambda *args, **settings: steps.append(1))
    out = train(replace(config, epochs=1), shown=False)
    assert not steps
    assert CLIPScorer(out).embed_text(["one red circle"]).shape[0] == 1


def curve(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


@pytest.mark.slow
def test_damaged_files_are_passed_over_or_refused(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        cut_after(patch, 10)
        with pytest.raises(Cut):
            train(config, shown=False)
    older, newer = sorted(config.out.glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    (newer / "model.safetensors").write_bytes(b"half")
    assert last_checkpoint(config.out, recipe_of(older)) == older
    with pytest.raises(NbenchError, match="holds another training run"):
        train(replace(config, seed=1), shown=False)
    (newer / "complete.json").unlink()
    (older / "optimizer.pt").write_bytes(b"half")
    with pytest.raises(NbenchError, match=r"is damaged: remove .*checkpoint-\*"):
        train(config, shown=False)
    shutil.rmtree(older)
    train(config, shown=False)  # the other one was cut short while it was written: from the beginning
    (config.out / "training.json").write_text('{"positions": [4,')
    with pytest.raises(NbenchError, match=r"training\.json is damaged: remove it"):
        train(config, shown=False)


def recipe_of(checkpoint: Path) -> str:
    return str(json.loads((checkpoint / "complete.json").read_text())["recipe"])


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
