"""The trainer on tiny models: what is tuned, what is read, what comes out, and what does not change the result."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer
from typer.testing import CliRunner

from nbench.cli import app
from nbench.errors import NbenchError
from nbench.scorers.clip import CLIPScorer
from nbench.scorers.dual_encoder import open_dual_encoder
from nbench.scorers.image_processor import ImageProcessor
from nbench.scorers.registry import get_scorer
from nbench.shards.reader import Bench, open_bench
from nbench.shards.schema import PositionInfo
from nbench.training import trainer
from nbench.training.config import LatentCLIPConfig, TrainConfig
from nbench.training.contrast import contrast, sigmoid
from nbench.training.examples import ExampleDataset, Examples
from nbench.training.learner import DualEncoderLearner
from nbench.training.noisyclip import train

from ..benchmarks.signals_bench import with_reference
from ..scorers.tiny_models import save_aimv2, save_clip, save_siglip


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {"clip": save_clip(folder / "clip"), "siglip": save_siglip(folder / "siglip")}


@pytest.fixture
def config(scenes: Path, bases: dict[str, Path], tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        scenes, tmp_path / "model", "4:6", epochs=1, batch_size=16, learning_rate=1e-2, base=str(bases["clip"])
    )


def changed(base: Path, folder: Path) -> set[str]:
    before, after = (open_dual_encoder(path, dtype=torch.float16).state_dict() for path in (base, folder))
    return {name for name in after if name not in before or not torch.equal(before[name], after[name])}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "settings", "tuned"),
    [
        ("clip", {"tune": "vision"}, ("vision_model.", "visual_projection.")),
        ("clip", {"tune": "lora", "input": "latent"}, ("vision_model.encoder.", "vision_model.embeddings.")),
        ("clip", {"tune": "projection"}, ("visual_projection.",)),
        ("siglip", {"tune": "lora", "lora_rank": 2}, ("vision_model.encoder.",)),
        ("siglip", {"tune": "all", "objective": "sigmoid"}, ("",)),
        ("siglip", {"input": "latent", "process": "forward", "objective": "distill"}, ("vision_model.",)),
    ],
)
def test_it_trains_what_it_should_and_opens_in_stock_transformers(
    config: TrainConfig, bases: dict[str, Path], base: str, settings: dict[str, Any], tuned: tuple[str, ...]
) -> None:
    out = train(replace(config, base=str(bases[base]), **settings), shown=False)
    different = changed(bases[base], out)
    assert different
    assert all(name.startswith(tuned) for name in different)
    model = AutoModel.from_pretrained(out, dtype=torch.float32).eval()
    assert type(model).__module__.startswith("transformers.")
    scorer = get_scorer(str(out), open_bench(config.data).info)
    inputs = torch.rand(2, 4, 16, 16) if scorer.reads == "latent" else torch.rand(2, 3, 16, 16)
    assert scorer.reads == settings.get("input", "preview")
    assert isinstance(scorer, CLIPScorer)
    own = CLIPScorer(out, model=model).embed_inputs(inputs)
    torch.testing.assert_close(scorer.embed_inputs(inputs), own)


@pytest.mark.parametrize(("kind", "tune"), [("token", "vision"), ("adaln", "lora")])
def test_a_model_that_is_told_the_level_opens_by_one_import(config: TrainConfig, kind: str, tune: str) -> None:
    settings: Any = {"noise_level": kind, "tune": tune, "input": "latent"}
    out = train(replace(config, **settings), shown=False)
    model = open_dual_encoder(out, dtype=torch.float32)
    assert model.noise_level.leave.weight.abs().sum() > 0
    card = (out / "README.md").read_text()
    assert "open_dual_encoder" in card
    scorer = get_scorer(str(out), open_bench(config.data).info)
    assert getattr(scorer, "conditioned", False)
    assert isinstance(scorer, CLIPScorer)
    assert scorer.embed_inputs(torch.zeros(1, 4, 16, 16), PositionInfo(5, None, 1.0, 1.0)).shape == (1, 8)
    with pytest.raises(NbenchError, match="noise level at position 5 is not recorded"):
        scorer.embed_inputs(torch.zeros(1, 4, 16, 16), PositionInfo(5, None, None, 1.0))


@pytest.mark.parametrize(
    ("objective", "reads"), [("listwise", "x0_preview"), ("lambdarank,reference:0.5,bradley-terry,distill:2", "x0")]
)
def test_losses_on_the_order_of_candidates(config: TrainConfig, signals: Bench, objective: str, reads: str) -> None:
    settings: Any = {"data": signals.path, "positions": "0,5", "objective": objective, "input": reads}
    out = train(replace(config, reference="clip", batch_size=9, **settings), shown=False)
    assert get_scorer(str(out), signals.info).reads == reads


def logits_and_targets(
    config: TrainConfig, folder: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[torch.Tensor, torch.Tensor, DualEncoderLearner, Examples]:
    """What `contrast` gets for the first batch, when the text tower has moved if it is trained."""
    arguments, bench = list[Any](), open_bench(config.data)
    learner = DualEncoderLearner(config, bench.info.latent_space, folder, base, torch.device("cpu")).eval()
    for name, values in learner.named_parameters():
        if values.requires_grad and name.startswith(("model.text_", "model.logit_scale")):
            values.data.add_(0.1 * torch.randn_like(values))

    def noted(*given: Any) -> Any:
        arguments.extend(given)
        return contrast(*given)

    monkeypatch.setattr("nbench.training.learner.contrast", noted)
    batch = next(iter(ExampleDataset(config, bench, learner.images, (0, 1))))
    learner(batch)
    return arguments[0], arguments[2], learner, batch


def test_targets_are_the_frozen_models_while_its_text_tower_is_tuned(
    config: TrainConfig, bases: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, targets, _, batch = logits_and_targets(replace(config, tune="all"), bases["clip"], bases["clip"], monkeypatch)
    assert not targets.requires_grad
    stock: Any = AutoModel.from_pretrained(bases["clip"], dtype=torch.float32).eval()
    captions = batch.captions + [text for texts in batch.corrupted for text in texts]
    tokens = AutoTokenizer.from_pretrained(bases["clip"])(captions, padding=True, truncation=True, return_tensors="pt")
    pixels = ImageProcessor(bases["clip"])(batch.images.decoded(range(len(batch))))
    with torch.no_grad():
        expected = stock(**pixels, **tokens).logits_per_image
    torch.testing.assert_close(targets, expected, atol=1e-4, rtol=1e-4)


def test_the_teachers_bias_is_its_own_while_the_models_is_tuned(
    config: TrainConfig, bases: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = list[Any]()

    def noted(*arguments: Any) -> Any:
        given.extend(arguments)
        return sigmoid(*arguments)

    monkeypatch.setattr("nbench.training.learner.sigmoid", noted)
    base = bases["siglip"]
    config, bench = replace(config, base=str(base), tune="all", objective="sigmoid"), open_bench(config.data)
    learner = DualEncoderLearner(config, bench.info.latent_space, base, base, torch.device("cpu"))
    model: Any = learner.model
    model.logit_bias.data.add_(1.0)
    learner(next(iter(ExampleDataset(config, bench, learner.images, (0, 1)))))
    stock: Any = AutoModel.from_pretrained(base, dtype=torch.float32)
    *_, bias, teacher_bias = given
    torch.testing.assert_close(bias, stock.logit_bias + 1.0)
    torch.testing.assert_close(teacher_bias, stock.logit_bias, check_device=False)


def test_a_model_of_another_base_is_trained_further_with_its_own_text_tower_and_teacher(
    config: TrainConfig, bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train(replace(config, noise_level="token", tune="all"), shown=False)
    further = replace(config, noise_level="token", start=str(first), out=tmp_path / "further")
    logits, targets, learner, batch = logits_and_targets(further, first, bases["clip"], monkeypatch)
    captions = batch.captions + [text for texts in batch.corrupted for text in texts]
    scorer, scale = CLIPScorer(first), learner.model.logit_scale.exp()
    with torch.no_grad():
        expected = scale * scorer.image_features(learner.inputs(batch), batch.noise_level)
        expected = expected @ scorer.embed_text(captions).T
    torch.testing.assert_close(logits, expected, atol=1e-3, rtol=1e-3)
    base = CLIPScorer(bases["clip"])
    pictures = batch.images.decoded(range(len(batch)))
    expected = 1 / 0.07 * base.embed_inputs(pictures) @ base.embed_text(captions).T  # the scale that CLIP begins with
    torch.testing.assert_close(targets, expected, atol=1e-3, rtol=1e-3)


def test_the_teacher_of_a_model_that_is_trained_further_is_what_it_began_from(
    config: TrainConfig, bases: dict[str, Path], tmp_path: Path
) -> None:
    first = train(replace(config, input="latent"), shown=False)
    further = replace(config, input="latent", start=str(first), out=tmp_path / "further")
    for base in (None, str(bases["siglip"])):
        with pytest.raises(NbenchError, match=r"was trained from another base than .*: name that by --base, beside"):
            train(replace(further, base=base), shown=False)
    second = train(further, shown=False)
    third = train(replace(further, start=str(second), out=tmp_path / "third"), shown=False)
    recorded = [json.loads((folder / "training.json").read_text()) for folder in (first, second, third)]
    assert [each.get("base") for each in recorded] == [None, recorded[0]["start"], recorded[0]["start"]]
    with pytest.raises(NbenchError, match="was not trained here, so it is its own teacher: leave --base out"):
        train(replace(further, start=str(bases["siglip"])), shown=False)


def gradients(config: TrainConfig) -> dict[str, torch.Tensor]:
    bench = open_bench(config.data)
    torch.manual_seed(0)
    base = Path(str(config.base))
    learner = DualEncoderLearner(config, bench.info.latent_space, base, base, torch.device("cpu"))
    learner(next(iter(ExampleDataset(config, bench, learner.images, (0, 1)))))["loss"].backward()
    return {name: values.grad for name, values in learner.named_parameters() if values.grad is not None}


@pytest.mark.parametrize("settings", [{"micro_batch": 5}, {"checkpointing": True}])
def test_saving_memory_does_not_change_gradients(config: TrainConfig, settings: dict[str, Any]) -> None:
    config = replace(config, input="latent", noise_level="adaln")
    whole, parts = gradients(config), gradients(replace(config, **settings))
    assert whole.keys() == parts.keys()
    for name, values in whole.items():
        torch.testing.assert_close(parts[name], values, atol=1e-6, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [("objective=contrast,distill:2", "noise_level=token", "input=latent"), ("tune=all", "objective=sigmoid")],
)
def test_two_processes_with_half_the_batch_have_the_gradients_of_one(
    scenes: Path, bases: dict[str, Path], tmp_path: Path, settings: tuple[str, ...]
) -> None:
    script = [str(Path(__file__).with_name("gradients.py")), str(scenes), str(bases["clip"])]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, command in (("one", []), ("two", torchrun)):
        options = ["positions=4:6", *settings]
        subprocess.run([sys.executable, *command, *script, str(tmp_path / name), *options], check=True, timeout=300)
    one, two = (load_file(tmp_path / name) for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, values in one.items():
        torch.testing.assert_close(two[name], values, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_torchrun_trains_in_two_processes(scenes: Path, bases: dict[str, Path], tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "nbench"]
    options = ["--positions", "4:6", "--batch-size", "16", "--epochs", "2", "--base", str(bases["clip"])]
    losses = {}
    for name, command in (("two", torchrun), ("one", [sys.executable, "-m", "nbench"])):
        out = tmp_path / name
        subprocess.run(
            [*command, "train", "noisyclip", "--data", str(scenes), "--out", str(out), *options],
            check=True,
            timeout=300,
        )
        log = [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]
        losses[name] = [line["loss"] for line in log[1:]]
    assert losses["two"] == pytest.approx(losses["one"], abs=2e-3)


def test_the_best_checkpoint_by_gain_is_kept_and_training_stops(
    config: TrainConfig, signals: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gains as scripted: the second epoch is the best, and two epochs without a better one end the run."""
    config = replace(config, positions="5", epochs=9, bench=signals.path, bench_reference="clip", patience=2)
    gains, states = iter([0.0, 0.2, 0.5, 0.4, 0.3, 0.9]), list[dict[str, torch.Tensor]]()
    evaluate = trainer.FineTuner.evaluate

    def scripted(self: Any, *args: Any, **settings: Any) -> dict[str, float]:
        real = self._gain

        def gain(scorer: Any) -> float:
            assert -5 < real(scorer) < 5
            return next(gains)

        self._gain, result = gain, None
        states.append({name: each.clone() for name, each in trainer.trained_state(self.learner).items()})
        result = evaluate(self, *args, **settings)
        self._gain = real
        return result

    monkeypatch.setattr(trainer.FineTuner, "evaluate", scripted)
    out = train(config, shown=False)
    log = [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]
    assert [line["recovered_gain"] for line in log] == [0.0, 0.2, 0.5, 0.4, 0.3]
    kept = open_dual_encoder(out).visual_projection.weight
    best = states[2]["model.visual_projection.weight"]
    torch.testing.assert_close(kept, best, atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(kept.half(), best.half())
    assert not torch.equal(best, states[4]["model.visual_projection.weight"])


class Cut(Exception):
    """Stands for a kill."""


@pytest.fixture
def scripted(
    config: TrainConfig, signals: Bench, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Path, list[Any], list[Any]]]:
    """Trains with given gains, an evaluation each; None is a kill. Returns the folder, epochs and gains of the log."""

    def run(*gains: float | None, **changes: Any) -> tuple[Path, list[Any], list[Any]]:
        left = iter(gains)

        def gain(scorer: Any) -> float:
            if (value := next(left)) is None:
                raise Cut
            return value

        monkeypatch.setattr("nbench.training.gain.gain_on", lambda config, positions: gain)
        settings = replace(config, bench=signals.path, bench_reference="clip", tune="projection", **changes)
        with suppress(Cut):
            train(settings, shown=False)
        log = [json.loads(line) for line in (settings.out / "train.jsonl").read_text().splitlines()]
        return settings.out, [line["epoch"] for line in log], [line["recovered_gain"] for line in log]

    return run


def test_a_resumed_run_keeps_its_patience_and_its_best_checkpoint_in_another_folder(
    scripted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: Any = {"epochs": 6, "patience": 2}
    whole, *curve = scripted(0.0, 0.5, 0.4, 0.3, 0.9, 0.9, 0.9, out=tmp_path / "whole", **settings)
    assert curve == [[0, 1, 2, 3], [0.0, 0.5, 0.4, 0.3]]
    scripted(0.0, 0.5, 0.4, None, out=tmp_path / "cut", **settings)
    moved = (tmp_path / "cut").rename(tmp_path / "moved")
    with monkeypatch.context() as patch:
        patch.setattr(DualEncoderLearner, "save", lambda *given: scripted_cut())
        assert scripted(0.3, 0.9, 0.9, 0.9, out=moved, **settings)[1:] == tuple(curve)
    assert scripted(0.9, 0.9, 0.9, out=moved, **settings)[1:] == tuple(curve)  # nothing is left to do but to save
    expected, resumed = (load_file(folder / "model.safetensors") for folder in (whole, moved))
    for name, values in expected.items():
        assert torch.equal(resumed[name], values)


def scripted_cut() -> None:
    raise Cut


def test_a_run_that_is_killed_in_an_evaluation_evaluates_again(scripted: Any) -> None:
    assert scripted(0.0, 0.1, None, epochs=3, save_every=1)[1] == [0, 1]
    assert scripted(0.2, 0.3, epochs=3, save_every=1)[1:] == ([0, 1, 2, 3], [0.0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize("score", [lambda rows: rows * 0.0 + 1, lambda rows: rows * np.nan, lambda rows: -rows])
def test_a_bench_without_a_gain_to_recover_is_refused(
    config: TrainConfig, signals: Bench, tmp_path: Path, score: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Equal scores, none, and a reference that the yardstick's choice is bad for: gains would have the other sign."""
    bench = with_reference(signals, tmp_path / "bench", score)
    with pytest.raises(NbenchError, match="has no gain to recover: on its first 12 prompts"):
        train(replace(config, positions="5", data=signals.path, bench=bench, bench_reference="other"), shown=False)


@pytest.mark.parametrize(
    ("objective", "score", "unit"),
    [
        ("contrast,listwise", lambda rows: rows * 0.0 + 1, "the candidates of a prompt"),
        ("reference", lambda rows: rows * np.nan, "the final images"),
    ],
)
def test_a_reference_that_scores_all_alike_is_refused(
    config: TrainConfig, signals: Bench, tmp_path: Path, objective: str, score: Any, unit: str
) -> None:
    data = with_reference(signals, tmp_path / "data", score)
    settings: Any = {"objective": objective, "positions": "5", "batch_size": 6}
    with pytest.raises(NbenchError, match=f"other tells no two of {unit} in .* apart"):
        train(replace(config, data=data, reference="other", **settings), shown=False)


def test_another_reference_or_bench_is_another_run(config: TrainConfig, signals: Bench, tmp_path: Path) -> None:
    data = with_reference(signals, tmp_path / "data", lambda rows: rows)
    settings: Any = {"objective": "reference", "reference": "other", "positions": "5", "batch_size": 6}
    config = replace(config, data=data, tune="projection", **settings)
    train(config, shown=False)
    train(replace(config, bench_prompts=7), shown=False)  # without a bench it decides nothing
    with pytest.raises(NbenchError, match="holds another trained model"):
        train(replace(config, bench=data, bench_reference="clip"), shown=False)
    with_reference(signals, tmp_path / "data", lambda rows: 1 - rows, scorer="2")
    with pytest.raises(NbenchError, match="holds another trained model"):
        train(config, shown=False)


@pytest.mark.slow
def test_steps_are_reported_to_tensorboard(config: TrainConfig) -> None:
    out = train(replace(config, report_to="tensorboard", bf16=True), shown=False)
    assert list(out.rglob("events.out.tfevents.*"))


@pytest.mark.parametrize(
    ("name", "message"), [("wandb", "needs the package wandb: pip install wandb"), ("mlfow", "mlfow is not known")]
)
def test_reports_that_cannot_be_are_told_before_training(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.setattr("nbench.training.finetune.find_spec", lambda package: None)
    with pytest.raises(NbenchError, match=message):
        train(replace(config, report_to=name), shown=False)


def test_a_report_that_fails_is_told(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type("UsageError", (Exception,), {"__module__": "tensorboard.errors"})

    def fails(*args: Any, **settings: Any) -> None:
        raise kind("no API key")

    monkeypatch.setattr(trainer.FineTuner, "train", fails)
    with pytest.raises(NbenchError, match=r"--report-to tensorboard failed \(no API key\): mend that"):
        train(replace(config, report_to="tensorboard"), shown=False)
    with pytest.raises(kind):
        train(config, shown=False)


@pytest.mark.slow
def test_steps_and_recipe_are_reported_to_wandb_without_a_network(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    train(replace(config, report_to="wandb", epochs=12), shown=False)
    run = wandb.run
    assert (run.name, run.project, run.config["objective"]) == ("model", "nbench", "contrast")
    assert "train/loss" in dict(run.summary)
    wandb.finish()
    assert list(tmp_path.rglob("run-*.wandb"))


@pytest.mark.slow
def test_steps_and_recipe_are_reported_to_trackio_without_a_network(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))  # it is read at import
    pytest.importorskip("trackio")
    train(replace(config, report_to="trackio", epochs=12), shown=False)
    assert list(tmp_path.rglob("nbench*.db"))


def test_a_run_that_diverges_ends_without_a_model(config: TrainConfig) -> None:
    with pytest.raises(NbenchError, match=r"the loss has become nan: .* lower --learning-rate"):
        train(replace(config, learning_rate=1e9, epochs=3), shown=False)
    assert not (config.out / "training.json").exists()
    assert not (config.out / "config.json").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"input": "latent"}, "a tower that begins with a convolution"),
        ({"noise_level": "adaln"}, "--noise-level adaln needs an image tower of CLIP's or SigLIP's layers"),
        ({"deepen": 2}, "--deepen needs an image tower of CLIP's or SigLIP's layers"),
    ],
)
def test_what_a_tower_cannot_do_is_told(
    config: TrainConfig, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    base = str(save_aimv2(tmp_path / "aimv2"))
    with pytest.raises(NbenchError, match=message):
        train(replace(config, base=base, **settings), shown=False)


def test_options_from_yaml(config: TrainConfig, tmp_path: Path) -> None:
    options = tmp_path / "options.yaml"
    options.write_text(
        f"data: {config.data}\npositions: 4:6\nbatch-size: 16\nepochs: 3\nbase: {config.base}\ntune: projection"
    )
    arguments = ["train", "noisyclip", "--config", str(options), "--out", str(config.out)]
    result = CliRunner().invoke(app, [*arguments, "--epochs", "1"])
    assert result.exit_code == 0, result.output
    recipe = json.loads((config.out / "training.json").read_text())
    assert (recipe["tune"], recipe["epochs"], recipe["positions"]) == ("projection", 1, [4, 5, 6])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", "did you mean epochs?"),
        ("- 3", "is not a list"),
        ("a: [", "cannot read"),
    ],
)
def test_a_yaml_file_that_does_not_fit(tmp_path: Path, text: str, message: str) -> None:
    options = tmp_path / "options.yaml"
    options.write_text(text)
    result = CliRunner().invoke(app, ["train", "noisyclip", "--config", str(options)])
    assert isinstance(result.exception, NbenchError)
    assert message in str(result.exception)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainConfig(objective="contrast:0"), "--objective contrast:0 is not understood"),
        (lambda: TrainConfig(objective="nce"), "--objective nce is not understood"),
        (lambda: TrainConfig(objective="contrast,distill,contrast:2"), "--objective names contrast twice"),
        (lambda: TrainConfig(patience=1), "--patience needs a --bench"),
        (lambda: LatentCLIPConfig(tune="projection"), "has a new first layer"),
        (lambda: TrainConfig(deepen=2, tune="projection"), "--deepen adds layers"),
    ],
)
def test_settings_that_exclude_each_other(make: Callable[[], TrainConfig], message: str) -> None:
    with pytest.raises(NbenchError, match=message):
        make()
