"""Cost of scores: the extra call of an x0 estimate, seconds relative to a denoiser step, and their use in pruning."""

import json
import shutil
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from nbench.benchmarks.evaluate import evaluate
from nbench.benchmarks.evaluate_config import EvaluateConfig
from nbench.benchmarks.results.terminal import report_table
from nbench.benchmarks.scoring.scorer_cost import time_steps
from nbench.cli import app
from nbench.errors import NbenchError
from nbench.sampling.offline.recorded_scores import from_bench
from nbench.scorers.placement import CPU
from nbench.shards.reader import Bench

from ...small_bench import STEPS
from ..signals_bench import make_signals_bench


@pytest.fixture(scope="module")
def signals(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A bench with estimates of x0."""
    return make_signals_bench(tmp_path_factory.mktemp("costs") / "signals")


@pytest.mark.slow
def test_readers_of_estimates_pay_a_call_more(signals: Bench, tmp_path: Path) -> None:
    report = evaluate(EvaluateConfig(signals.path, ("clip", "x0-clip", "x0-image"), "0,5", tmp_path))
    costs = {(row.model, row.position): row.cost_steps for row in report.rows}
    assert [costs["clip", k] for k in (0, 5, 10)] == [10, 20, 30]
    assert [costs["x0-clip", k] for k in (0, 5, 10)] == [12, 22, 30]  # what step k made of all three is known after it
    assert costs["x0-image", 5] == 22
    assert (report.costs["x0-clip"].calls_per_score, report.costs["clip"].calls_per_score) == (1, 0)
    assert report.costs["clip"].steps_per_score is None  # no step was timed


@pytest.mark.slow
def test_pruning_policies_take_costs_from_the_evaluation(signals: Bench, tmp_path: Path) -> None:
    folder = shutil.copytree(signals.path, tmp_path / "timed")
    info = json.loads((folder / "dataset.json").read_text())
    info["spec"] |= {"dtype": "float32", "guidance": 1.5, "call_kwargs": {}, "steps": STEPS}
    (folder / "dataset.json").write_text(json.dumps(info))
    out = tmp_path / "out"
    report = evaluate(EvaluateConfig(folder, ("x0-clip", "clip"), "5", out, time_steps=3))
    for model, calls, rows in (("x0-clip", 1, 22), ("clip", 0, 20)):
        cost = report.costs[model]
        assert cost.step_seconds is not None
        assert cost.seconds_per_score is not None
        assert cost.steps_per_score == cost.seconds_per_score / cost.step_seconds > 0
        assumed = from_bench(folder, model, out)
        assert (assumed.calls_per_score, assumed.score_cost) == (calls, cost.steps_per_score)
        arguments = ["replay", "5:1", "--bench", str(folder), "--model", model, "--results", str(out), "--n", "3"]
        said = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
        assert said["rows"][0]["calls"] == pytest.approx(rows + 3 * cost.steps_per_score)
        plain = json.loads(CliRunner().invoke(app, [*arguments, "--score-cost", "0", "--no-reads-x0", "--json"]).stdout)
        assert plain["rows"][0]["calls"] == 20
    screen = Console(file=StringIO(), width=120)
    screen.print(report_table(report))
    assert f"{report.costs['clip'].steps_per_score:.3f}" in screen.file.getvalue()  # type: ignore[attr-defined]


def test_steps_are_timed_where_it_is_known_how_the_bench_was_made(signals: Bench) -> None:
    with pytest.raises(NbenchError, match="--time-steps 1 is out of range"):
        time_steps(signals.location.absolute, 1, CPU)
    with pytest.raises(NbenchError, match=r"cannot time a denoiser step .*leave --time-steps out"):
        time_steps(signals.location.absolute, 2, CPU)  # its spec does not say how it was made
