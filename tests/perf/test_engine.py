"""The timing of arrivals at random: the three ways compute what their policies say, and nothing is lost."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

import nbench

SCRIPT = Path(nbench.__file__).parent / "perf" / "engine.py"


@pytest.mark.slow
def test_ways_and_endurance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "engine.json"
    options = ["--prompts", "2", "--n", "2", "--steps", "3", "--policy", "1:1", "--gap", "0.01", "--endure", "3"]
    monkeypatch.setattr("sys.argv", [str(SCRIPT), *options, "--json", str(out)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    results = json.loads(out.read_text())
    assert {way: results[way]["calls"] for way in ("plain", "in turn", "engine")} == {
        "plain": 2 * 3,
        "in turn": 2 + 2,
        "engine": 2 + 2,
    }
    assert all(0 < results[way]["median"] <= results[way]["p95"] for way in ("plain", "in turn", "engine"))
    assert results["stats"]["finished"] == 2
    endured = results["endure"]
    assert (endured["failed"], endured["lost"]) == (1, 0)
    assert endured["answered"] + endured["cancelled"] == 2  # a request may be answered before it is cancelled
