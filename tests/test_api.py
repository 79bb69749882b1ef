"""What `import nbench` offers, as in a notebook."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import nbench
from nbench.benchmarks.metrics.catalogue import CORE
from nbench.benchmarks.scoring.score import score_bench
from nbench.errors import NbenchError
from nbench.shards.reader import Bench
from nbench.shards.scores import reference_path, write_scores

from .benchmarks.scoring.test_score import Brightness
from .small_bench import CANDIDATES, PROMPTS, STEPS, make_bench


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    bench, _ = make_bench(tmp_path_factory.mktemp("api") / "small")
    origin = {"scorer_fingerprint": "1", "bench_fingerprint": bench.info.fingerprint}
    write_scores(reference_path(bench.path, "clip"), score_bench(bench, Brightness(reads="image"), [STEPS]), origin)
    return nbench.open_bench(bench.path)


def brightest(inputs: torch.Tensor, prompts: Any) -> Any:
    return inputs[:, 0].mean((1, 2)).numpy()


def test_names_are_listed_documented_and_light() -> None:
    names = set(dir(nbench)) - {"__version__"}
    assert names >= {"evaluate", "compare", "leaderboard", "tune", "replay", "publish", "BuildConfig", "BestOfN"}
    assert all(inspect.getdoc(getattr(nbench, name)) for name in names)
    light = "import nbench, sys; dir(nbench); assert not {'torch', 'pyarrow', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", light], check=True)
    with pytest.raises(AttributeError, match="no attribute 'evaluat'"):
        nbench.evaluat  # noqa: B018


def test_functions_and_scorers_are_evaluated_like_names(bench: Bench, tmp_path: Path) -> None:
    report = nbench.evaluate(
        bench, ["random", brightest, Brightness()], [0, 8], reads="latent", out=tmp_path, progress=False
    )
    gains = {(row.model, row.position): row.recovered_gain for row in report.rows}
    assert {model for model, _ in gains} == {"random", "brightest", "brightness"}
    assert gains["brightest", 8] == gains["brightness", 8]
    assert gains["brightest", 8] == pytest.approx(1)  # position 8 shows the quality
    again = nbench.evaluate(bench, brightest, "8", reads="latent", out=tmp_path, progress=False)
    assert [row.position for row in again.rows] == [8, STEPS]
    board = nbench.leaderboard(tmp_path, position=8)
    assert board.lines[0].model in ("brightest", "brightness")
    comparison = nbench.compare("small/brightness", "small/random", bench, results=tmp_path)
    assert comparison.note == ""
    tuned = nbench.tune(bench, "brightness", 0.9, n=4, positions=[0, 8], results=str(tmp_path))
    replayed = nbench.replay("8:1", bench, "brightness", n=4, results=str(tmp_path))
    outcomes: dict[str, Any] = {"brightest": board, "A = brightness": comparison, "held-out": tuned, "8:1": replayed}
    for name, outcome in outcomes.items():
        assert name in repr(outcome)  # the table of the command
        assert max(map(len, repr(outcome).splitlines())) <= 80


@pytest.mark.slow
def test_a_report_is_short_and_has_tables_and_figures(bench: Bench, tmp_path: Path) -> None:
    report = nbench.evaluate(bench, "random", "8", out=tmp_path, progress=False)
    assert repr(report).startswith(
        f"random on small ({PROMPTS} prompts x {CANDIDATES}) at positions 8, 10, against clip"
    )
    frame = report.to_pandas()
    assert list(frame["position"]) == [8, STEPS]
    assert set(CORE) <= set(frame.columns)
    assert report._repr_html_().count("<td>random</td>") == 2
    figure = report.plot(tmp_path / "plot.svg")
    assert len(figure.axes) == 2
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert (tmp_path / "plot.svg").stat().st_size > 1000
    lines = repr(bench).splitlines()
    assert (len(lines), f"{PROMPTS} prompts x {CANDIDATES}" in lines[1]) == (5, True)


@pytest.mark.parametrize(
    ("models", "message"),
    [(Brightness, "is a class, not a scorer"), ([object()], "is not a scorer"), ([brightest, brightest], "two models")],
)
def test_what_is_no_scorer_is_refused(bench: Bench, tmp_path: Path, models: Any, message: str) -> None:
    with pytest.raises(NbenchError, match=message):
        nbench.evaluate(bench, models, "8", reads="latent", out=tmp_path, progress=False)
    with pytest.raises(NbenchError, match="not integers"):
        nbench.evaluate(bench, "random", [0.5], out=tmp_path)  # type: ignore[list-item]


def test_policies_are_replayed_and_tuned(bench: Bench, tmp_path: Path) -> None:
    nbench.evaluate(bench, brightest, "5,8", reads="latent", out=tmp_path, progress=False)
    replayed = nbench.replay("8:1", bench, "brightest", n=CANDIDATES, results=tmp_path)
    assert replayed.rows[0].recovered_gain[0] == pytest.approx(1)
    tuned = nbench.tune(bench, "brightest", 0.9, n=CANDIDATES, results=tmp_path)
    assert tuned.in_sample.rows[0].share <= 0.9
