"""A probe learns to predict the reference from activations, and scores as its head does."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nbench.benchmarks.scoring.score import score_bench
from nbench.errors import NbenchError
from nbench.scorers.registry import get_scorer
from nbench.shards.reader import Bench
from nbench.training.config import ProbeTraining
from nbench.training.probe import train_probe

from ..benchmarks.signals_bench import CANDIDATES, LAYER, PROMPTS, make_signals_bench


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_signals_bench(tmp_path_factory.mktemp("bench") / "signals")


def training(bench: Bench, out: Path, **changed: object) -> ProbeTraining:
    settings = {"positions": "0,5", "reference": "clip", "epochs": 300, "learning_rate": 0.02, "hidden": 8, **changed}
    return ProbeTraining(bench.path, LAYER, out, **settings)  # type: ignore[arg-type]


def test_a_probe_learns_to_predict_the_reference(bench: Bench, tmp_path: Path) -> None:
    out = train_probe(training(bench, tmp_path / "probe"))
    assert json.loads((out / "training.json").read_text())["explained"]["training"] > 0.9
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


def test_the_head_of_the_best_epoch_on_held_out_prompts_is_written(bench: Bench, tmp_path: Path) -> None:
    explained = []
    for epochs in (1, 10, 40, 400):
        out = train_probe(training(bench, tmp_path / str(epochs), epochs=epochs, learning_rate=0.1))
        explained.append(json.loads((out / "training.json").read_text())["explained"]["validation"])
    assert explained == sorted(explained)  # more epochs choose among more heads, and never end with a worse one


def test_the_same_run_gives_the_same_weights(bench: Bench, tmp_path: Path) -> None:
    one, two = (train_probe(training(bench, tmp_path / name, epochs=3)) for name in ("one", "two"))
    assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()


def test_what_cannot_be_trained_on_is_refused(bench: Bench, tmp_path: Path) -> None:
    for changed, reason in (
        ({"positions": "10"}, "no activations at the final position"),
        ({"reference": "human"}, r"no reference human in .*: it has clip"),
        ({"positions": "7"}, "latents 7 not in this bench"),
    ):
        with pytest.raises(NbenchError, match=reason):
            train_probe(training(bench, tmp_path / "probe", **changed))
    with pytest.raises(NbenchError, match=r"activations:other not in this bench"):
        train_probe(ProbeTraining(bench.path, "other", tmp_path / "probe"))


@pytest.mark.parametrize("objective", ["listwise", "lambdarank", "bradley-terry"])
def test_a_probe_learns_the_order(
    bench: Bench, tmp_path: Path, objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nbench.training.probe._GROUPS", 5)
    out = train_probe(training(bench, tmp_path / "probe", objective=objective, epochs=150))
    table = score_bench(bench, get_scorer(f"probe:{out}", bench.info), [5])
    scores = np.array(table["score"].to_pylist()).reshape(PROMPTS, CANDIDATES)
    reference = np.array(bench.references["clip"]["score"].to_pylist()).reshape(PROMPTS, CANDIDATES)
    assert np.mean(scores.argmax(1) == reference.argmax(1)) > 0.75  # a third by chance
