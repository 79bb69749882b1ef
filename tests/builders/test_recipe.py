"""Recipes: files with options for a build, and the one that a data set holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nbench.builders.build import BuildReport
from nbench.builders.config import BuildConfig
from nbench.builders.recipe import recipe_of
from nbench.jobs.options import EngineOptions
from nbench.pipelines.options import PipelineOptions
from nbench.shards.hub.package import pack

from ..conftest import Run

FULL = BuildConfig(
    "ncc",
    "sdxl",
    prompts=Path("captions.jsonl"),
    limit=5,
    tags=("counting", "part, relation"),
    positions="20:30",
    signals=("latent", "x0", "image"),
    references=("clip", "judge=vqascore"),
    seed=7,
    options=PipelineOptions(
        guidance=7.5,
        negative_prompt="a: 'b'\n- c",
        arguments={"clip_skip": 1, "text": "1", "sizes": [1, 2]},
        lora=("a:0.5", "b"),
        compile=True,
    ),
)


@pytest.fixture
def parsed(run: Run, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs `nbench build ARGUMENTS` up to the build; returns what it is asked to build and with which workers."""

    def parse(*arguments: object) -> tuple[BuildConfig, EngineOptions]:
        asked = list[tuple[BuildConfig, EngineOptions]]()

        def build(config: BuildConfig, workers: EngineOptions) -> BuildReport:
            asked.append((config, workers))
            return BuildReport(Path("out"), 0, 0, 0, 0)

        monkeypatch.setattr("nbench.benchmarks.build.build", build)
        outcome = run("build", *arguments)
        assert outcome.code == 0, outcome.err
        return asked[0]

    return parse


def test_a_recipe_is_read_as_what_it_was_written_from(parsed: Any, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_bytes(recipe_of(replace(FULL, out="elsewhere", fresh=True)))
    read, _ = parsed("--config", recipe)
    assert read == replace(FULL, prompts="captions.jsonl")
    won, _ = parsed("--config", recipe, "--positions", "5", "--vae-tiling", "genai-bench")
    assert (won.positions, won.options.vae_tiling, won.kind, won.seed) == ("5", True, "genai-bench", 7)
    recipe.write_bytes(recipe_of(BuildConfig("ncc")))
    assert recipe.read_text().splitlines()[1:] == ["kind: ncc"]


def test_names_are_those_of_the_options(parsed: Any, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yml"
    text = "KIND: ncc\nbatch-size: 4\nfilter_tag: [a, b]\nrows_per_shard: 8\nlimit:\nattempts: 5\npipeline-config: sd"
    recipe.write_text(text.replace("KIND", "kind"))
    config, workers = parsed("--config", recipe)
    assert (config.batch_size, config.tags, config.rows_per_shard, config.limit) == (4, ("a", "b"), 8, None)
    assert (workers.attempts, config.options.config) == (5, "sd")


def test_a_configuration_of_a_checkpoint_is_still_one(parsed: Any, tmp_path: Path) -> None:
    assert parsed("ncc", "--config", "user/name")[0].options.config == "user/name"
    assert parsed("ncc", "--config", tmp_path)[0].options.config == str(tmp_path)
    assert parsed("ncc", "--pipeline-config", "user/name")[0].options.config == "user/name"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("positons: 3", "has positons, which is no option here: did you mean positions?"),
        ("zzz: 3", "has zzz, which is no option here: `--help` lists the options"),
        ("steps: 3\nsteps: 4", "steps is given twice"),
        ("filter-tag: a\ntags: b", "has tags twice"),
        ("- steps", "is not a list of `option: value`"),
        ("a: [", "cannot read"),
        ("steps: many", "unable to parse string as an integer"),
        ("help: 1", "has help, which is no option"),
    ],
)
def test_what_cannot_be_meant_is_refused(run: Run, tmp_path: Path, text: str, message: str) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    code, _, err = run("build", "ncc", "--config", recipe)
    assert code == 2
    assert message in " ".join(err.replace("│", " ").split())


def test_a_data_set_is_built_again_from_its_recipe(run: Run, tmp_path: Path) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("two red circles\none blue square\n")
    options = ("--steps", 2, "--candidates", 2, "--positions", "0,2", "--latent-dtype", "int8", "--seed", 3)
    built = run("build", "ncc", "--prompts", prompts, *options, "--out", first)
    assert built.code == 0, built.err
    assert run("build", "--config", first, "--out", again).code == 0
    files = {path.relative_to(first) for path in first.rglob("*") if path.is_file()}
    assert {str(name) for name in files} >= {"recipe.yaml", "dataset.json", "data/train-00000-of-00001.parquet"}
    for name in files:
        assert (first / name).read_bytes() == (again / name).read_bytes(), name
    assert str(prompts) in (first / "recipe.yaml").read_text()
    assert "recipe.yaml" in pack(first, "user/name", 1).left_out  # it names a path of this machine
    (first / "recipe.yaml").write_text("kind: ncc\nprompts: captions.jsonl\nnegative_prompt: a/b\n")
    assert "recipe.yaml" in [file.path for file in pack(first, "user/name", 1).files]
