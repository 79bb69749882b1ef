"""Builds by several processes have the bytes of one process's."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nbench.benchmarks.build import build
from nbench.benchmarks.evaluate import evaluate
from nbench.benchmarks.evaluate_config import EvaluateConfig
from nbench.benchmarks.results.result_file import read_result
from nbench.benchmarks.scoring.references import add_references
from nbench.benchmarks.scoring.references_config import AddConfig
from nbench.builders.config import BuildConfig
from nbench.builders.merge import merge_parts
from nbench.errors import NbenchError
from nbench.jobs.options import EngineOptions
from nbench.shards.convert import convert
from nbench.shards.convert_config import ConvertConfig
from nbench.shards.verify import verify

from ..conftest import Run
from .test_build import files

SMALL = BuildConfig("ncc", limit=6, candidates=1, steps=2, rows_per_shard=2)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build of one process."""
    out = tmp_path_factory.mktemp("alone") / "ncc"
    build(replace(SMALL, out=out), progress=False)
    return out


def test_parts_are_merged_when_all_are_there(alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "ncc"
    config = replace(SMALL, out=out)
    for name, value in {"ID": 4, "MIN": 4, "MAX": 5, "COUNT": 2}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    assert build(config, False, EngineOptions(rank="auto")).left == 1
    with pytest.raises(NbenchError, match="lacks 1 of 3 shards: 1; make them by the same nbench build"):
        merge_parts(out)
    assert build(config, False, EngineOptions(units="1")).left == 0
    assert merge_parts(out).complete
    assert files(out) == files(alone)
    assert merge_parts(out).complete  # again changes nothing
    assert files(out) == files(alone)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [EngineOptions(workers=2), EngineOptions(engine="ray", workers=2)])
def test_workers_make_the_same_bytes(alone: Path, tmp_path: Path, workers: EngineOptions) -> None:
    """Those that one process makes: of a build with its references, of a conversion, and of scores."""
    bench = replace(SMALL, kind="genai-bench", references=("clip",), out=tmp_path / "alone")
    outs, by_one = [tmp_path / "alone", tmp_path / "shared"], EngineOptions()
    for out, who in zip(outs, (by_one, workers), strict=True):
        build(replace(bench, out=out), False, who)
        tars = tmp_path / f"{out.name}-tars"
        convert(ConvertConfig(str(out), str(tars), format="webdataset", rows_per_shard=1), who.run())
    assert files(outs[1]) == files(outs[0])
    assert files(tmp_path / "shared-tars") == files(tmp_path / "alone-tars")
    assert files(outs[0]).keys() > {"dataset.json", "scores/clip.parquet"}
    config = EvaluateConfig(outs[0], ("clip",), "0,1")
    for name, who in (("by-one", by_one), ("by-two", workers)):
        evaluate(replace(config, out=tmp_path / name), workers=who)
    tables = [
        {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*.parquet")} for name in ("by-one", "by-two")
    ]
    assert tables[0].keys() == {"clip.parquet"}
    assert tables[1] == tables[0]
    assert verify(outs[1], workers.run()) == verify(outs[0])


LIGHT = """
import sys
from nbench.cli import main
if __name__ == "__main__":
    try:
        main()
    finally:
        print(sorted({"torch", "diffusers", "transformers"} & {name.partition(".")[0] for name in sys.modules}))
"""


@pytest.fixture
def light(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a command with two workers; its last line of output lists the libraries that its own process imported."""
    (tmp_path / "light.py").write_text(LIGHT)

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, str(tmp_path / "light.py"), *map(str, arguments), "--workers", "2"]
        return subprocess.run(words, check=False, capture_output=True, text=True)

    return run


@pytest.mark.slow
def test_the_driver_of_several_workers_imports_neither_torch_nor_diffusers(
    alone: Path, tmp_path: Path, light: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """Of builds, an extension, references and scores; and all is as if one process had made it."""
    out, results = tmp_path / "two", tmp_path / "results"
    small = replace(SMALL, kind="genai-bench", references=("clip",), out=tmp_path / "one")
    build(replace(small, limit=4), progress=False)
    build(replace(small, limit=6, extend=True), progress=False)
    add_references(AddConfig(tmp_path / "one", ("vqascore",)))
    config = EvaluateConfig(tmp_path / "one", ("clip", "noisyclip"), "0,1", results / "one", retrieval=True)
    evaluate(replace(config, time_steps=2))
    shape = ["--candidates", "1", "--steps", "2", "--rows-per-shard", "2", "--out"]
    words = ["build", "genai-bench", *shape, out, "--references", "clip"]
    scores = ["--model", "clip", "--model", "noisyclip", "--latents", "0,1", "--retrieval", "--time-steps", "2"]
    for arguments in (
        ["build", "ncc", *shape, tmp_path / "ncc", "--limit", "6"],
        [*words, "--limit", "4"],
        [*words, "--limit", "6", "--extend"],
        ["references", out, "--add", "vqascore"],
        ["evaluate", "--bench", out, *scores, "--out", results / "two"],
    ):
        done = light(*arguments)
        assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["[]"]), done.stderr
    assert files(tmp_path / "ncc") == files(alone)
    assert files(out) == files(tmp_path / "one")
    for name in ("clip", "noisyclip"):
        one, two = (results / folder / folder / f"{name}.parquet" for folder in ("one", "two"))
        assert two.read_bytes() == one.read_bytes()
        assert read_result(two.with_suffix(".json")).retrieval == read_result(one.with_suffix(".json")).retrieval != ()
    for arguments, reason in (
        ([*words, "--limit", "4", "--fresh", "--scheduler", "Heun"], "Heun"),
        (["evaluate", "--bench", out, "--model", "nosuch", "--out", results], "unknown model nosuch"),
    ):
        refused = light(*arguments)
        assert (refused.returncode, refused.stdout) == (2, "[]\n")
        assert reason in refused.stderr


@pytest.mark.slow
def test_the_recipes_for_slurm_and_for_containers_work(
    alone: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lines of the document, in small, with the variables that are set there."""
    text = (Path(__file__).parents[2] / "docs/scale.md").read_text()
    script = re.search(r"#!/bin/bash\n(?:#SBATCH .*\n)+(nbench .*)", text)
    merge = re.search(r'--wrap "(nbench merge) /shared/ncc"', text)
    assert script
    assert merge
    small = ["--pipeline", "shapes", "--prompts", "shapes", "--positions", "all", "--limit", "6", "--candidates", "1"]
    small += ["--steps", "2", "--rows-per-shard", "2"]
    for out, rank, size in (("slurm", "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"), ("hf", "RANK", "WORLD_SIZE")):
        with monkeypatch.context() as patch:
            patch.setenv(size, "2")
            for number in ("0", "1"):
                patch.setenv(rank, number)
                assert run(*script[1].split()[1:], *small, "--out", tmp_path / out).code == 0
        assert run(*merge[1].split()[1:], tmp_path / out).code == 0
        made, expected = files(tmp_path / out), files(alone)
        assert made.pop("recipe.yaml") != expected.pop("recipe.yaml")  # it says --prompts
        assert made == expected
