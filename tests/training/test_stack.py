"""A stack adds up scores by weights that least squares finds, on a bench and in a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from nbench.benchmarks.scoring.score import score_bench
from nbench.cli import app
from nbench.errors import NbenchError
from nbench.pipelines.schedulers import swapped
from nbench.sampling.bestofn import BestOfN
from nbench.sampling.monitor import AlignmentMonitor
from nbench.scorers.registry import get_scorer
from nbench.scorers.stack import StackConfig
from nbench.shards.reader import Bench
from nbench.training.config import StackTraining
from nbench.training.stack import fit, held_out_sums, train_stack

from ..benchmarks.signals_bench import CANDIDATES, PROMPTS, make_signals_bench, with_reference
from ..sampling.live import PROMPT, STEPS, opened, plain

MODELS = ("x0-clip", "x0-noisyclip")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_signals_bench(tmp_path_factory.mktemp("bench") / "signals")


@pytest.fixture(scope="module")
def trained(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stack") / "stack"
    return train_stack(StackTraining(bench.path, MODELS, "0,5", out, reference="clip", folds=3))


def column(table: pa.Table, position: int) -> np.ndarray:
    return np.array([row["score"] for row in table.to_pylist() if row["position"] == position])


def test_weights_are_those_of_ridge_regression_within_prompts() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(200, 4, 3)) * [1.0, 5.0, 0.1]
    reference = inputs @ [2.0, -1.0, 0.0] + 10 * rng.normal(size=(200, 1))  # a constant of the prompt tells nothing
    np.testing.assert_allclose(fit(inputs, reference), [2.0, -1.0, 0.0], atol=2e-2)
    noise = rng.normal(size=(200, 4))
    found = fit(inputs, noise)
    centred = (inputs - inputs.mean(1, keepdims=True)).reshape(-1, 3)
    spread, target = centred.std(0), (noise - noise.mean(1, keepdims=True)).reshape(-1)
    solutions = []
    for penalty in (1e-3, 1e-2, 1e-1, 1.0):
        rows = np.concatenate([centred / spread, np.sqrt(penalty * len(centred)) * np.eye(3)])
        solutions.append(np.linalg.lstsq(rows, np.concatenate([target, np.zeros(3)]), rcond=None)[0] / spread)
    assert min(np.abs(found - solution).max() for solution in solutions) < 1e-9


def test_the_weights_of_a_prompt_do_not_see_its_fold() -> None:
    rng = np.random.default_rng(0)
    features, fold = rng.normal(size=(40, 3, 2, 2)), np.arange(40) % 4
    reference = features[:, :, 1].sum(-1) + rng.normal(size=(40, 3))
    sums = held_out_sums(features, reference, fold)
    changed = held_out_sums(features, np.where(fold[:, None] == 2, -reference, reference), fold)
    np.testing.assert_array_equal(changed[fold == 2], sums[fold == 2])
    assert not np.isclose(changed[fold != 2], sums[fold != 2]).any()
    inputs, others = features.reshape(40, 3, 4), fold != 2
    np.testing.assert_allclose(sums[fold == 2, :, 1], inputs[fold == 2] @ fit(inputs[others], reference[others]))
    first = fit(features[others, :, 0], reference[others])
    np.testing.assert_allclose(sums[fold == 2, :, 0], features[fold == 2, :, 0] @ first)


def test_a_stack_scores_a_bench_by_the_scores_of_its_models(bench: Bench, trained: Path) -> None:
    scorer = get_scorer(f"stack:{trained}", bench.info)
    assert (scorer.name, scorer.reads) == ("stack", "x0")
    table = score_bench(bench, scorer, [0, 5, 10])
    parts = [score_bench(bench, get_scorer(model, bench.info), [0, 5]) for model in MODELS]
    weights = json.loads((trained / "config.json").read_text())["weights"]
    for position, reached in ((0, [0]), (5, [0, 5]), (10, [0, 5])):
        rows = weights[str(reached[-1])]
        expected = sum(
            rows[place][model] * column(part, at)
            for place, at in enumerate(reached)
            for model, part in enumerate(parts)
        )
        np.testing.assert_allclose(column(table, position), expected, rtol=1e-5, atol=1e-7)
    alone = score_bench(bench, scorer, [5])  # what came before is read, but not in the table
    assert set(alone["position"].to_pylist()) == {5}
    np.testing.assert_allclose(column(alone, 5), column(table, 5))
    assert len(alone) == PROMPTS * CANDIDATES


def test_the_report_has_gains_of_all_on_the_same_prompts(trained: Path) -> None:
    report = json.loads((trained / "training.json").read_text())
    assert set(report["recovered_gain"]) == {"0", "5"}
    assert set(report["recovered_gain"]["5"]) == {"stack", *MODELS}
    assert report["prompts"] == PROMPTS


def test_nothing_to_learn_and_a_folder_of_another_model_are_refused(bench: Bench, tmp_path: Path) -> None:
    level = with_reference(bench, tmp_path / "level", lambda scores: scores * 0.0 + 1)
    config = StackTraining(level, ("x0-clip",), "5", tmp_path / "out", reference="other", folds=2)
    with pytest.raises(NbenchError, match=r"other tells no two candidates of a prompt in .* apart"):
        train_stack(config)
    config.out.mkdir()
    (config.out / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(NbenchError, match="holds another model: choose another --out or remove it"):
        train_stack(replace(config, reference="clip"))
    assert "clip" in (config.out / "config.json").read_text()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    weights: dict[int, tuple[tuple[float, ...], ...]] = {1: ((1.0, 0.5),), 3: ((0.25, -1.0), (2.0, 1.0))}
    config = StackConfig(models=MODELS, positions=(1, 3), steps=STEPS, reference="clip", weights=weights)
    (tmp_path / "config.json").write_text(config.model_dump_json())
    return tmp_path


def test_a_run_adds_up_what_it_saw_before(folder: Path) -> None:
    pipe, arguments = opened("shapes")
    result = BestOfN(pipe, f"stack:{folder}", n=3, policy="3:2,4:1").best(PROMPT, **arguments)
    seeds = [candidate.seed for candidate in result.candidates]
    seen = []
    for model in MODELS:
        with AlignmentMonitor(pipe, model, PROMPT) as monitor:
            plain(pipe, seeds, arguments)
        seen.append({position: np.array(scores) for position, scores in monitor.scores.items()})
    clip, noisy = seen
    first = clip[1] + 0.5 * noisy[1]
    expected = 0.25 * clip[1] - noisy[1] + 2 * clip[3] + noisy[3]
    scores = np.array([candidate.scores[3] for candidate in result.candidates])
    np.testing.assert_allclose(scores, expected, atol=1e-3)
    later = [candidate.scores[4] for candidate in result.candidates if 4 in candidate.scores]
    np.testing.assert_allclose(sorted(later), np.sort(expected)[1:], atol=1e-3)  # as it was at 3
    with AlignmentMonitor(pipe, f"stack:{folder}", PROMPT) as monitor:
        plain(pipe, seeds, arguments)
    assert list(monitor.scores) == [1, 2, 3, 4, 5]
    for position in range(1, STEPS + 1):
        np.testing.assert_allclose(monitor.scores[position], first if position < 3 else expected, atol=1e-3)
    with AlignmentMonitor(pipe, f"stack:{folder}", PROMPT, positions=[4]) as monitor:
        plain(pipe, seeds, arguments)
    np.testing.assert_allclose(monitor.scores[4], expected, atol=1e-3)
    with pytest.raises(NbenchError, match="scores from position 1 on, not at 0"):
        BestOfN(pipe, f"stack:{folder}", policy="0:2,3:1").best(PROMPT, **arguments)
    with pytest.raises(NbenchError, match=f"runs of {STEPS} steps, not 7"):
        BestOfN(pipe, f"stack:{folder}", policy="3:1").best(PROMPT, **{**arguments, "num_inference_steps": 7})


def test_a_copy_goes_on_with_the_scores_of_what_it_is_a_copy_of(tmp_path: Path) -> None:
    weights: dict[int, tuple[tuple[float, ...], ...]] = {1: ((1.0,),), 3: ((1.0,), (0.0,))}
    config = StackConfig(models=("noisyclip-t",), positions=(1, 3), steps=STEPS, reference="clip", weights=weights)
    (tmp_path / "config.json").write_text(config.model_dump_json())
    pipe, arguments = opened("shapes")
    pipe.scheduler = swapped(pipe, "FlowMatchLCM")
    result = BestOfN(pipe, f"stack:{tmp_path}", n=3, policy="1:3s100000,3:1").best(PROMPT, **arguments)
    first, later = ([candidate.scores[k] for candidate in result.candidates] for k in (1, 3))
    assert len(set(first)) == 3
    assert later == [max(first)] * 3


def test_what_does_not_add_up_is_refused(bench: Bench, tmp_path: Path) -> None:
    def train(models: tuple[str, ...], **changed: Any) -> None:
        settings = {"positions": "0,5", "reference": "clip", "folds": 3, "out": tmp_path / "out", **changed}
        train_stack(StackTraining(bench.path, models, **settings))

    for models, changed, reason in (
        (("x0-clip", "noisyclip"), {}, "a stack reads one signal, .* x0-clip reads x0, noisyclip reads latent"),
        (("x0-clip@2",), {}, "x0-clip@2 reads x0_preview@2"),
        (("x0-clip",), {"folds": 9}, "too few for 9 folds"),
        (("x0-clip",), {"positions": "7"}, "latents 7 not in this bench"),
    ):
        with pytest.raises(NbenchError, match=reason):
            train(models, **changed)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(NbenchError, match="is not a stack"):
        get_scorer(f"stack:{tmp_path}", bench.info)
    assert not (tmp_path / "out").exists()


def test_models_are_separated_by_commas_on_the_command_line(bench: Bench) -> None:
    arguments = ["--data", str(bench.path), "--models", "x0-clip,noisyclip", "--positions", "5", "--reference", "clip"]
    result = CliRunner().invoke(app, ["train", "stack", *arguments])
    assert "a stack reads one signal" in str(result.exception)
