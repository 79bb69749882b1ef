"""Results proposed to a leaderboard: a pull request on a real server, and what is refused before it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbench.benchmarks.evaluate import evaluate
from nbench.benchmarks.evaluate_config import EvaluateConfig
from nbench.benchmarks.results.result_file import read_result, write_result
from nbench.benchmarks.results.submit import read_submission
from nbench.benchmarks.scoring.score import score_bench
from nbench.errors import NbenchError
from nbench.shards.scores import reference_path, write_scores

from ...shards.hub.hub_protocol import TOKEN
from ...shards.hub.hub_server import HubServer
from ...small_bench import STEPS, make_bench
from ..scoring.test_score import Brightness


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def results(tmp_path: Path) -> Path:
    bench, _ = make_bench(tmp_path / "small")
    origin = {"scorer_fingerprint": "1", "bench_fingerprint": bench.info.fingerprint}
    write_scores(reference_path(bench.path, "clip"), score_bench(bench, Brightness(reads="image"), [STEPS]), origin)
    evaluate(EvaluateConfig(bench.path, ("random",), "5", tmp_path / "results"))
    return tmp_path / "results" / "small"


def submitted(results: Path, hub: HubServer, home: Path, *options: str) -> subprocess.CompletedProcess[str]:
    program = "from nbench.cli import main; main()"
    command = [sys.executable, "-c", program, "submit", str(results), "--to", "ann/leaderboard", *options]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return subprocess.run(command, env=kept | hub.environment(home), capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_results_become_a_pull_request(results: Path, hub: HubServer, tmp_path: Path) -> None:
    repo = hub.create("ann/leaderboard")
    before = repo.files()
    listed = submitted(results, hub, tmp_path, "--dry-run")
    assert (listed.returncode, "nothing is sent" in listed.stdout, hub.writes) == (0, True, [])
    done = submitted(results, hub, tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, f"{hub.endpoint}/datasets/ann/leaderboard/discussions/1")
    assert TOKEN not in done.stdout + done.stderr
    assert repo.files() == before  # main is its owner's
    result = read_result(results / "random.json")
    place = f"results/small-{result.bench_fingerprint[:8]}"
    proposed = {name: file.data for name, file in repo.files("refs/pr/1").items() if name not in before}
    assert proposed == {
        f"{place}/{name}": (results / name).read_bytes()
        for name in ("random.json", "random.parquet", "references/clip.arrow")
    }


def test_figures_that_scores_do_not_give_are_refused(results: Path) -> None:
    assert len(read_submission(results).files) == 3
    path = results / "random.json"
    content = json.loads(path.read_text())
    content["rows"][0]["spearman"] += 0.01
    path.write_text(json.dumps(content))
    with pytest.raises(NbenchError, match=r"states spearman .* but its scores give"):
        read_submission(results)


def test_what_cannot_be_checked_is_refused(results: Path, tmp_path: Path) -> None:
    path = results / "random.json"
    result = read_result(path)
    write_result(path, result.model_copy(update={"provenance": result.provenance.model_copy(update={"started": None})}))
    with pytest.raises(NbenchError, match="does not say when"):
        read_submission(path)
    write_result(path, result)
    (results / "references" / "clip.arrow").unlink()
    with pytest.raises(NbenchError, match="lacks its scores, or the scores of reference clip"):
        read_submission(results)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NbenchError, match="no results"):
        read_submission(tmp_path / "empty")
