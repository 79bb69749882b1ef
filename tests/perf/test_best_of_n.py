"""The Best-of-N trial: its table from a real bench; recorded scores predict the live runs."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

import nbench
from nbench.benchmarks.build import build
from nbench.benchmarks.evaluate import evaluate
from nbench.benchmarks.evaluate_config import EvaluateConfig
from nbench.builders.config import BuildConfig
from nbench.sampling.policy import parse_policy

SCRIPT = Path(nbench.__file__).parent / "perf" / "best_of_n.py"
STEPS = 8


@pytest.mark.slow
def test_the_table_of_a_bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench, results, out = tmp_path / "bench", tmp_path / "results", tmp_path / "trial.json"
    build(BuildConfig("genai-bench", out=bench, limit=2, candidates=4, steps=STEPS), progress=False)
    evaluate(EvaluateConfig(bench, ("noisyclip", "random"), "3,6,7", results))
    ways = ["noisyclip@3:2,7:1", "noisyclip@3,6:1", "random@6:2", "x0-clip@2:1"]
    policies = [word for way in ways for word in ("--policy", way)]
    arguments = [
        str(bench),
        *policies,
        "--plain",
        "1",
        "--at-once",
        "1",
        "--results",
        str(results),
        "--markdown",
        "--json",
        str(out),
    ]
    monkeypatch.setattr("sys.argv", [str(SCRIPT), *arguments])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    trial = json.loads(out.read_text())
    full, one, two, three, blind, estimates, random, oracle = trial["rows"]
    lines = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [line[0] for line in lines[2:]] == [f"| {row['way']}" for row in trial["rows"]]
    whole = 4 * STEPS
    assert full["calls"] == 1
    assert (one["calls"], one["n"], trial["ways"]["plain best of 1"]["chosen"]) == (1 / 4, 1, [0, 0])
    assert two["calls"] == parse_policy("3:2,7:1").rows(4, STEPS) / whole
    assert three["calls"] == parse_policy("6:1").rows(3, STEPS) / whole
    assert blind["calls"] == (4 * 6 + 2 * (STEPS - 6)) / whole  # two are left at T
    assert estimates["calls"] == parse_policy("2:1").rows(4, STEPS, calls_per_score=1) / whole
    assert [row["as_replayed"] for row in (two, three, blind, estimates)] == [2, 2, 2, None]
    assert max(trial["ways"]["noisyclip@3,6:1"]["chosen"]) < 3
    assert all(row["seconds"] > 0 for row in trial["rows"][:6])
    for reference in ("clip", "vqascore"):
        assert random["gains"][reference]["value"] == 0
        assert oracle["gains"][reference]["mean"] >= max(row["gains"][reference]["mean"] for row in trial["rows"])
    assert full["gains"]["clip"]["value"] == oracle["gains"]["clip"]["value"] == 1
