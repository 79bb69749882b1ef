"""A probe learns to predict the reference from activations, and scores as its head does."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nbench.benchmarks.scoring.score import score_bench
from nbench.errors import NbenchError
from nbench.scorers.registry import get_scorer
from nbench.shards.reader import Bench
from nbench.training.config import ProbeTraining
from nbench.training.examples import ExampleDataset
from nbench.training.probe import ProbeLearner, train

from ..benchmarks.signals_bench import CANDIDATES, LAYER, PROMPTS, make_signals_bench


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_signals_bench(tmp_path_factory.mktemp("bench") / "signals")


def training(bench: Bench, out: Path, **changed: Any) -> ProbeTraining:
    settings: Any = {"positions": "0,5", "reference": "clip", "epochs": 60, "learning_rate": 0.02, "hidden": 8}
    return ProbeTraining(bench.path, out, **settings | {"layer": LAYER, "batch_size": 9} | changed)


def curve(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_probe_learns_to_predict_the_reference(bench: Bench, tmp_path: Path) -> None:
    out = train(training(bench, tmp_path / "probe"), shown=False)
    assert curve(out)[-1]["loss"] < 0.1  # of the variance is left
    scorer = get_scorer(f"probe:{out}", bench.info)
    assert (scorer.name, scorer.reads) == ("probe", f"activations:{LAYER}")
    table = score_bench(bench, scorer, [0, 5, 10])
    positions, scores = (np.array(table[name].to_pylist()) for name in ("position", "score"))
    assert np.unique(positions).tolist() == [0, 5]  # there are none at the final one
    reference = np.array(bench.references["clip"]["score"].to_pylist()).reshape(PROMPTS, CANDIDATES)
    agreement = np.mean(scores[positions == 5].reshape(PROMPTS, CANDIDATES).argmax(1) == reference.argmax(1))
    assert agreement > 0.75  # a third by chance
    weights = load_file(out / "model.safetensors")
    (batch,) = list(bench.batches([5], signals=(f"activations:{LAYER}",)))[:1]
    features = (torch.tensor(batch.activations[LAYER][5]).float() - weights["mean"]) / weights["std"]
    hidden = torch.cat([features, torch.full((len(batch), 1), 0.5)], dim=1) @ weights["layers.0.weight"].T
    expected = torch.nn.functional.gelu(hidden + weights["layers.0.bias"]) @ weights["layers.2.weight"][0]
    first = scores[positions == 5][: len(batch)]
    np.testing.assert_allclose(first, (expected + weights["layers.2.bias"]).numpy(), atol=1e-5)


@pytest.mark.slow
def test_the_head_of_the_best_epoch_on_held_out_prompts_is_written(bench: Bench, tmp_path: Path) -> None:
    config = training(bench, tmp_path / "probe", epochs=12, learning_rate=0.1)
    losses = [line["validation_loss"] for line in curve(train(config, shown=False))]
    assert min(losses) < losses[-1]  # or else it shows nothing
    learner = ProbeLearner(config, bench, torch.device("cpu"))
    learner.model.load_state_dict(load_file(config.out / "model.safetensors"))
    held_out = [ExampleDataset(replace(config, positions=k), bench, False, (0, 1), held_out=True) for k in ("0", "5")]
    (count,) = {len(examples) for data in held_out for examples in data}
    assert count < PROMPTS * CANDIDATES / 2
    kept = np.mean([learner(examples)["loss"].item() for data in held_out for examples in data])
    assert kept == pytest.approx(min(losses), abs=1e-5)


def test_loss_and_accuracy_are_those_of_their_definitions(bench: Bench, tmp_path: Path) -> None:
    config = training(bench, tmp_path / "probe")
    learner = ProbeLearner(config, bench, torch.device("cpu"))
    examples = next(iter(ExampleDataset(config, bench, False, (0, 1))))
    scores = learner.model(examples.latents, examples.position / 10).detach().numpy().reshape(-1, CANDIDATES)
    reference = examples.reference.numpy().reshape(-1, CANDIDATES)
    centred = [values - values.mean(1, keepdims=True) for values in (scores, reference)]
    figures = {name: values.item() for name, values in learner(examples).items()}
    assert figures["loss"] == pytest.approx(np.sum((centred[0] - centred[1]) ** 2) / np.sum(centred[1] ** 2), rel=1e-4)
    assert figures["accuracy"] == pytest.approx(np.mean(scores.argmax(1) == reference.argmax(1)))


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_same_weights(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(training(bench, tmp_path / "whole", epochs=4), shown=False)
    steps = iter([None] * 8)
    forward = ProbeLearner.forward
    monkeypatch.setattr(ProbeLearner, "forward", lambda self, examples: (next(steps), forward(self, examples))[1])
    with pytest.raises(StopIteration):
        train(training(bench, tmp_path / "cut", epochs=4), shown=False)
    monkeypatch.setattr(ProbeLearner, "forward", forward)
    assert list((tmp_path / "cut").glob("checkpoint-*"))
    cut = train(training(bench, tmp_path / "cut", epochs=4), shown=False)
    assert (whole / "model.safetensors").read_bytes() == (cut / "model.safetensors").read_bytes()
    assert [line["validation_loss"] for line in curve(cut)] == [line["validation_loss"] for line in curve(whole)]


@pytest.mark.slow
def test_the_gain_on_a_bench_is_logged(bench: Bench, tmp_path: Path) -> None:
    config = replace(training(bench, tmp_path / "probe", epochs=30), bench=bench.path, bench_reference="clip")
    assert curve(train(config, shown=False))[-1]["recovered_gain"] > 0.5  # the reference is in the activations


@pytest.mark.slow
def test_the_same_run_gives_the_same_weights(bench: Bench, tmp_path: Path) -> None:
    one, two = (train(training(bench, tmp_path / name, epochs=3), shown=False) for name in ("one", "two"))
    assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()


def test_what_cannot_be_trained_on_is_refused(bench: Bench, tmp_path: Path) -> None:
    for changed, reason in (
        ({"positions": "10"}, "no activations at the final position"),
        ({"reference": "human"}, r"no reference human in .*: it has clip"),
        ({"positions": "7"}, "latents 7 not in this bench"),
    ):
        with pytest.raises(NbenchError, match=reason):
            train(training(bench, tmp_path / "probe", **changed))
    with pytest.raises(NbenchError, match=r"activations:other not in this bench"):
        train(training(bench, tmp_path / "probe", layer="other"))


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["listwise", "lambdarank", "bradley-terry"])
def test_a_probe_learns_the_order(bench: Bench, tmp_path: Path, objective: str) -> None:
    out = train(training(bench, tmp_path / "probe", objective=objective), shown=False)
    table = score_bench(bench, get_scorer(f"probe:{out}", bench.info), [5])
    scores = np.array(table["score"].to_pylist()).reshape(PROMPTS, CANDIDATES)
    reference = np.array(bench.references["clip"]["score"].to_pylist()).reshape(PROMPTS, CANDIDATES)
    assert np.mean(scores.argmax(1) == reference.argmax(1)) > 0.75  # a third by chance
