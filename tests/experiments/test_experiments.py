"""The experiments: their figures against a plain computation, their page, and that each of their trainings is valid."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from transformers import CLIPModel

from nbench.experiments.__main__ import run_experiment
from nbench.experiments.measure import figures, unseen
from nbench.experiments.page import PAGE, _table, write_page
from nbench.experiments.plans import EXPERIMENTS, Run
from nbench.pipelines.aliases import WORLD_PIPELINE
from nbench.training.config import TrainConfig

RUNS = [(name, run) for name, experiment in EXPERIMENTS.items() for run in experiment.runs]


def test_figures_are_means_over_seeds() -> None:
    rng = np.random.default_rng(0)
    judge = rng.random((40, 6))
    clip = judge + rng.random((40, 6))
    scores = rng.random((3, 2, 40, 6)) + judge
    cells = figures(scores, (10, 20), {"clip": clip, "judge": judge})
    assert [(cell["reference"], cell["position"]) for cell in cells] == [
        ("clip", 10),
        ("clip", 20),
        ("judge", 10),
        ("judge", 20),
    ]
    rows = np.arange(40)
    final, random = judge[rows, clip.argmax(1)].mean(), judge.mean()
    for k, cell in enumerate(cells[2:]):
        selected = np.mean([judge[rows, one[k].argmax(1)].mean() for one in scores])
        mean, low, high = cell["recovered_gain"]
        assert mean == pytest.approx((selected - random) / (final - random), abs=1e-3)
        assert low < mean < high
        rho = np.mean([stats.spearmanr(*pair).statistic for one in scores for pair in zip(one[k], judge, strict=True)])
        assert cell["spearman"][0] == pytest.approx(rho, abs=1e-3)


def test_a_prompt_is_scored_by_the_model_that_did_not_see_it() -> None:
    scores = np.broadcast_to(np.array([0.0, 2.0])[:, None, None, None], (2, 3, 7, 4))  # of folds 0 and 2
    of_unseen = unseen(scores, [0, 2])
    assert of_unseen.shape == (1, 3, 5, 4)
    assert of_unseen[0, 0, :, 0].tolist() == [0, 2, 0, 2, 0]


def test_the_page_is_that_of_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbench.experiments.page.PAGE", tmp_path / "page.md")
    write_page()
    assert (tmp_path / "page.md").read_text() == PAGE.read_text()


@pytest.mark.parametrize(("name", "run"), RUNS, ids=[f"{name}: {run.row}" for name, run in RUNS])
def test_every_model_is_ready_or_can_be_trained(name: str, run: Run) -> None:
    rows = [each.row for each in EXPERIMENTS[name].runs]
    assert rows.count(run.row) == 1
    if run.model is None:
        assert run.data
        TrainConfig(Path("data"), Path("out"), **{"positions": "0:50"} | dict(run.settings))
        assert run.start is None or WORLD_PIPELINE.with_name(run.start).is_dir()


@pytest.mark.slow
def test_twice_the_depth_is_trained_and_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of an experiment, on little data: its data sets, training from one of them, scores, figures."""
    monkeypatch.setattr("nbench.experiments.__main__.RESULTS", tmp_path)
    for module in ("__main__", "plans", "page"):
        monkeypatch.setattr(f"nbench.experiments.{module}.SEEDS", 1)
    monkeypatch.setattr("nbench.experiments.data.PROMPTS", 4)
    monkeypatch.setattr("nbench.experiments.data.POSITIONS", {"shapes": "10,50"})
    rows = EXPERIMENTS["rows"].runs
    (deep,) = (run for run in rows if "deepen" in run.settings and run.trainings > 1)
    (finished,) = (run for run in rows if run.model == "image:clip")
    few = replace(EXPERIMENTS["rows"], runs=(replace(deep, data="scenes-200"), finished), positions=(10, 50))
    run_experiment("few", few, tmp_path)
    content = json.loads((tmp_path / "few.json").read_text())
    assert [(row["row"], row["seeds"]) for row in content["rows"]] == [(deep.row, 1), (finished.row, 0)]
    assert {cell["position"] for cell in content["rows"][0]["cells"]} == {10, 50}
    table = _table(content["rows"], "truth", (10, 50), "recovered_gain").splitlines()
    assert [line.split(" |")[0] for line in table[2:]] == [f"| {deep.row}", f"| {finished.row}"]
    trained = CLIPModel.from_pretrained(sorted((tmp_path / "models" / "few").iterdir())[0])
    assert trained.vision_model.encoder.layers[1].mlp.fc2.weight.abs().max() > 0
