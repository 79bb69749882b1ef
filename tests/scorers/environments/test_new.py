"""`nbench models new`: what it writes scores in this process, under another Python, and in an environment of uv."""

from __future__ import annotations

import json
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
import torch

from nbench.benchmarks.scoring.score import score_bench
from nbench.errors import NbenchError
from nbench.sampling.bestofn import BestOfN
from nbench.scorers.check import PROMPTS, WORLD, check_names, check_scorer, made_up_inputs
from nbench.scorers.environments.new import new_scorer
from nbench.scorers.protocols import READS, NameScorer, PairScorer, TwinTower
from nbench.scorers.registry import get_scorer
from nbench.shards.reader import Bench

from ...conftest import Run
from ...small_bench import Quality


@pytest.mark.parametrize("kind", ["twin", "pair"])
@pytest.mark.parametrize(
    "reads", [reads.replace(":LAYER", ":blocks.1").replace(":NAME", ":clip").replace("@L", "@2") for reads in READS]
)
def test_what_is_written_scores_whatever_it_reads(kind: str, reads: str, tmp_path: Path) -> None:
    scorer: Any = get_scorer(f"{new_scorer(tmp_path / 'my scorer.py', kind, reads)}:Mine", WORLD)
    assert (scorer.name, scorer.reads) == ("my-scorer", reads)
    if reads == "nothing":
        assert isinstance(scorer, NameScorer)
        assert check_names(scorer, PROMPTS, range(6), 3) == []
        return
    assert isinstance(scorer, TwinTower if kind == "twin" else PairScorer)
    assert check_scorer(scorer, made_up_inputs(scorer, WORLD), PROMPTS, WORLD.positions[0]) == []


def _results(scorer: Any, kind: str) -> list[torch.Tensor]:
    inputs = made_up_inputs(scorer, WORLD)
    return (
        [scorer.score(inputs, PROMPTS)] if kind == "pair" else [scorer.embed_inputs(inputs), scorer.embed_text(PROMPTS)]
    )


@pytest.mark.parametrize("kind", ["twin", "pair"])
def test_what_is_written_scores_the_same_under_another_python(kind: str, tmp_path: Path, run: Run) -> None:
    mine = tmp_path / "mine.py"
    written = run("models", "new", mine, "--kind", kind, "--reads", "preview")
    assert written.code == 0
    assert f"check it: nbench models check {mine}:Mine" in written.out
    here, there = get_scorer(f"{mine}:Mine", WORLD), get_scorer(f"python:{sys.executable}:{mine}:Mine", WORLD)
    for a, b in zip(_results(here, kind), _results(there, kind), strict=True):
        assert torch.equal(a, b)


def test_the_scorer_to_copy_from_the_documents_has_twelve_lines_and_scores(tmp_path: Path) -> None:
    document = Path(__file__).parents[3] / "docs" / "scorers.md"
    text = document.read_text(encoding="utf-8").split("```python\n")[1].partition("```")[0]
    assert len(text.splitlines()) == 12
    (tmp_path / "mine.py").write_text(text)
    for way in ("", f"python:{sys.executable}:"):
        scorer = get_scorer(f"{way}{tmp_path / 'mine.py'}:Mine", WORLD)
        assert check_scorer(scorer, made_up_inputs(scorer, WORLD), PROMPTS, WORLD.positions[0]) == []


@pytest.fixture
def uv_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """uv has numpy alone, and a cache in `tmp_path`."""
    _wheel("numpy", tmp_path / "wheels")
    offline = {"UV_OFFLINE": "1", "UV_NO_INDEX": "1", "UV_FIND_LINKS": str(tmp_path / "wheels")}
    for name, value in (offline | {"UV_CACHE_DIR": str(tmp_path / "cache"), "UV_PYTHON": sys.executable}).items():
        monkeypatch.setenv(name, value)


@pytest.mark.slow
@pytest.mark.usefixtures("uv_without_network")
def test_what_is_written_runs_in_an_environment_of_uv(tmp_path: Path, run: Run) -> None:
    mine = new_scorer(tmp_path / "mine.py", "pair", "latent")
    here, there = get_scorer(f"{mine}:Mine", WORLD), get_scorer(f"uv:{mine}:Mine", WORLD)
    assert torch.equal(*_results(here, "pair"), *_results(there, "pair"))
    assert str(tmp_path / "cache") in str(there._transport._python)  # type: ignore[attr-defined]
    assert run("models", "check", f"uv:{mine}:Mine").out == "mine: reads latent, nothing wrong\n"
    mine.write_text(mine.read_text().replace('["numpy"]', '["nothing-like-it"]'))
    with pytest.raises(NbenchError, match="uv failed with exit code"):
        get_scorer(f"uv:{mine}:Mine", WORLD)


@pytest.mark.slow
@pytest.mark.usefixtures("uv_without_network")
def test_benches_and_live_runs_are_scored_in_an_environment_of_uv(
    tmp_path: Path, small_bench: tuple[Bench, Quality], world: Any, run: Run
) -> None:
    mine = new_scorer(tmp_path / "mine.py", "twin", "preview")
    ways, bench = (f"{mine}:Mine", f"uv:{mine}:Mine"), small_bench[0]
    tables, live, printed = [], [], []
    for way in ways:
        tables.append(score_bench(bench, get_scorer(way, bench.info), [5, 10]))
        result = BestOfN(world, way, n=3, policy="2:1").best("one green star", num_inference_steps=4)
        live.append((result.seeds, [candidate.scores for candidate in result.candidates]))
        command = ("sample", "one green star", "--best-of", 3, "--policy", "2:1", "--steps", 4, "--json")
        printed.append(json.loads(run(*command, "--model", way, "--out", tmp_path / "image.png").out)["candidates"])
    assert tables[0].equals(tables[1])
    assert live[0] == live[1]
    assert printed[0] == printed[1]


def _wheel(name: str, folder: Path) -> None:
    """The installed distribution as a wheel again, so that uv can install it without a package index."""
    installed = distribution(name)
    tag = (installed.read_text("WHEEL") or "").partition("\nTag: ")[2].split()[0]
    folder.mkdir()
    with zipfile.ZipFile(folder / f"{name}-{installed.version}-{tag}.whl", "w") as wheel:
        for file in installed.files or ():
            if ".." not in file.parts and "__pycache__" not in file.parts and "tests" not in file.parts:
                wheel.write(str(installed.locate_file(file)), str(file))


def test_refusals(tmp_path: Path, run: Run) -> None:
    mine = new_scorer(tmp_path / "mine.py")
    before = mine.read_text()
    for arguments, message in {
        ("mine.py",): "exists: give another name, or remove it",
        ("mine.txt",): "is not a Python file: give a name that ends in .py",
        ("b.py", "--kind", "twins"): "unknown kind twins (did you mean twin?)",
        ("b.py", "--reads", "previews"): "unknown input previews (did you mean preview?)",
        ("b.py", "--reads", "activations"): "unknown input activations",
    }.items():
        outcome = run("models", "new", tmp_path / arguments[0], *arguments[1:])
        assert outcome.code == 2
        assert message in outcome.err
    assert (mine.read_text(), [path.name for path in tmp_path.iterdir()]) == (before, ["mine.py"])
