"""The command line as a user runs it: instant help, one-line errors, clean JSON."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from nbench import __version__
from nbench.benchmarks import build as building
from nbench.builders.prompts import choose as prompt_sources
from nbench.shards.dataset import DatasetFolder
from nbench.shards.formats import shard_writer
from nbench.shards.reader import open_bench
from nbench.shards.row_columns import arrow_schema
from nbench.shards.rows import from_arrow

from .conftest import Run
from .dataset_info import commit_shard

HEAVY = {"torch", "diffusers", "transformers", "datasets", "numpy", "scipy", "pandas", "pyarrow", "matplotlib"}
HEAVY |= {"PIL", "ray", "fastapi", "huggingface_hub", "fsspec", "accelerate", "peft"}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small bench that keeps positions 0, 2 and 4 of 4."""
    folder = tmp_path_factory.mktemp("cli") / "bench"
    options = ["--limit", "3", "--candidates", "2", "--steps", "4", "--positions", "0:4:2", "--rows-per-shard", "4"]
    command = [sys.executable, "-m", "nbench", "build", "genai-bench", "--out", str(folder), *options]
    subprocess.run(command, check=True)
    return folder


@pytest.mark.parametrize("words", [[], ["build"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "nbench", *words, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "typer" in imported
    assert imported & HEAVY == set()
    assert "nbench build genai-bench" in done.stdout  # an example


def test_help_lists_the_commands_by_topic(run: Run) -> None:
    shown = run("--help").out
    assert {"build", "evaluate", "train"} <= set(shown.split())
    assert "─ Commands ─" not in shown  # the heading for commands without a topic


@pytest.mark.parametrize(
    "command",
    [["build"], ["evaluate"], ["train", "noisyclip"], ["inspect"], ["verify"], ["convert"], ["publish"], ["metrics"]],
)
def test_each_command_explains_itself_with_an_example(run: Run, command: list[str]) -> None:
    outcome = run(*command, "--help")
    assert outcome.code == 0
    assert f"nbench {' '.join(command)} " in outcome.out.partition("--help")[0].replace("Usage: nbench", "")


COMPLETED = """
source <(_NBENCH_COMPLETE=source_bash nbench)
for line in 'nbench ev' 'nbench evaluate --lat' 'nbench build --format '; do
    IFS=' ' read -ra COMP_WORDS <<< "$line"
    [ "${line: -1}" = ' ' ] && COMP_WORDS+=('')
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    _nbench_completion nbench
    echo "${COMPREPLY[*]}"
done
"""


def test_bash_completes_commands_options_and_values() -> None:
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    done = subprocess.run(["bash", "-c", COMPLETED], env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["evaluate", "--latents", "parquet webdataset"], done.stderr


def test_version(run: Run) -> None:
    assert run("--version").out == f"nbench {__version__}\n"


def test_json_is_all_that_stdout_gets(run: Run, bench: Path, tmp_path: Path) -> None:
    outcome = run("evaluate", "--model", "random", "--bench", bench, "--latents", "2", "--json", "--out", tmp_path)
    assert outcome.code == 0, outcome.err
    report = json.loads(outcome.out)
    assert (report["bench"], report["n_prompts"], report["n_candidates"]) == ("bench", 3, 2)
    assert {(row["model"], row["position"], row["reference"]) for row in report["rows"]} == {
        ("random", position, reference) for position in (2, 4) for reference in ("clip", "truth", "vqascore")
    }
    assert (tmp_path / "bench" / "random.json").exists()
    assert (tmp_path / "bench" / "random.parquet").exists()


@pytest.mark.slow
def test_table_shows_every_figure_whole(run: Run, bench: Path, tmp_path: Path) -> None:
    outcome = run("evaluate", "--bench", bench, "--out", tmp_path, "--plot", tmp_path / "plot.png")
    assert outcome.code == 0, outcome.err
    assert "noisyclip" in outcome.out
    assert "…" not in outcome.out
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert str(tmp_path / "plot.png") in outcome.out


def test_the_bench_may_come_from_the_environment(
    run: Run, bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBENCH_BENCH", str(bench))
    assert json.loads(run("evaluate", "--model", "random", "--json", "--out", tmp_path).out)["bench"] == "bench"


@pytest.mark.slow
def test_without_any_bench_the_embedded_one_is_built_and_that_is_said(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(prompt_sources.WORLD_PROMPTS, "genai-bench", 1)
    outcome = run("evaluate", "--model", "random", "--latents", "20,30", "--json")
    assert outcome.code == 0, outcome.err
    assert "no finished bench at data/noisy-genai-bench: building" in outcome.err
    assert json.loads(outcome.out)["n_candidates"] == 6
    assert (tmp_path / "data/noisy-genai-bench/dataset.json").exists()


def test_bad_input_is_one_line_and_exit_code_2(run: Run, bench: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    shutil.copytree(bench, half)
    manifest = json.loads((half / "dataset.json").read_text())
    manifest["shards"][-1] = None
    (half / "dataset.json").write_text(json.dumps(manifest))
    empty, nameless, file = tmp_path / "empty.txt", tmp_path / "nameless.csv", tmp_path / "file"
    empty.write_text("\n")
    nameless.write_text("id,text\n1,two red circles\n")
    file.write_text("")
    (tmp_path / "folder").mkdir()
    build = ("build", "genai-bench", "--out", tmp_path / "out")
    cases: dict[tuple[object, ...], str] = {
        ("evaluate", "--bench", bench, "--model", "noisyclp"): "did you mean noisyclip",
        ("evaluate", "--bench", bench, "--latents", "3"): "latents 3 not in this bench: it has 0, 2, 4",
        ("evaluate", "--bench", bench, "--latents", "60"): "60",
        ("evaluate", "--bench", bench, "--latents", "a"): "'a'",
        ("evaluate", "--bench", half): "half built (1 of 2 shards)",
        ("evaluate", "--bench", tmp_path / "nowhere"): "no bench at",
        (*build, "--prompts", empty): "is empty",
        (*build, "--prompts", nameless): "no column `prompt`",
        (*build, "--prompts", tmp_path / "nowhere.txt"): "No such file",
        (*build, "--pipeline", tmp_path / "folder"): "not a diffusers pipeline",
        (*build, "--pipeline", "shape"): "did you mean shapes",
        (*build, "--references", "clop"): "clop",
        (*build, "--positions", "51"): "51",
        (*build, "--steps", "0"): "--steps 0",
        (*build, "--dtype", "int8"): "'int8'",
        ("train", "noisyclip", "--data", tmp_path / "nowhere"): "no bench at",
        ("train", "noisyclip", "--epochs", "0"): "at least 1 epoch",
        ("build", "genai-bench", "--limit", "1", "--out", file / "out"): "choose another --out",
        ("inspect", tmp_path / "nowhere"): "no bench at",
        ("inspect", bench, "--row", "nobody/1"): "no row 'nobody/1'",
        ("verify", tmp_path / "nowhere"): "no bench at",
        ("convert", half, tmp_path / "out"): "half built (1 of 2 shards)",
        ("convert", bench, tmp_path / "out", "--positions", "3"): "latents 3 not in this bench: it has 0, 2, 4",
        ("convert", bench, "nonsense://out"): "cannot open nonsense://out",
        ("publish", tmp_path / "folder", "user/name", "--dry-run"): "nothing to publish",
    }
    for arguments, expected in cases.items():
        outcome = run(*arguments)
        assert outcome.code == 2, (arguments, outcome)
        assert outcome.out == "", (arguments, outcome)
        *others, line = outcome.err.splitlines()
        assert others == [], (arguments, outcome)
        assert line.startswith("error: "), (arguments, outcome)
        assert expected in line, (arguments, outcome)
    assert not (tmp_path / "out").exists()  # nothing is started that cannot be finished


def test_inspect(run: Run, bench: Path, tmp_path: Path) -> None:
    table = run("inspect", bench)
    assert table.code == 0
    assert "3 prompts x 2" in table.out
    assert json.loads(run("inspect", bench, "--json").out)["rows"] == 6
    drawn = run("inspect", bench, "--row", "shapes-00001/1", "--sheet", tmp_path / "new/sheet.png")
    assert drawn.out == f"written: {tmp_path / 'new/sheet.png'}\n"
    assert (tmp_path / "new/sheet.png").read_bytes().startswith(b"\x89PNG")


def test_a_build_is_verified_made_again_and_converted(run: Run, bench: Path, tmp_path: Path) -> None:
    fine = run("verify", bench, "--regenerate", "2", "--json")
    assert fine.code == 0, fine.out
    verified = json.loads(fine.out)
    again = verified.pop("regenerated")
    assert verified == {"rows": 6, "shards": 2, "defects": []}
    assert (again["count"], again["largest_difference"] < 0.01) == (2, True)
    moved = run("convert", bench, tmp_path / "tars", "--format", "webdataset", "--positions", "2")
    assert (moved.code, moved.out) == (0, f"{tmp_path / 'tars'}: 6 trajectories in 2 shards\n")
    shard = tmp_path / "tars/data/test-00001-of-00002.tar"
    shard.write_bytes(shard.read_bytes()[:-1000])
    broken = run("verify", tmp_path / "tars")
    assert broken.code == 1
    assert "data/test-00001-of-00002.tar: its SHA-256 differs from the recorded one" in broken.out
    assert broken.out.splitlines()[-1].endswith("defects")


def test_a_row_that_does_not_match_its_seed_is_found(run: Run, bench: Path, tmp_path: Path) -> None:
    """Complete, finite rows with a valid manifest but other noise: only regenerating them shows the defect."""
    convert = ("convert", bench, tmp_path / "odd", "--latent-dtype", "float32")
    assert run(*convert).code == 0
    folder = DatasetFolder(tmp_path / "odd")
    whole = open_bench(tmp_path / "odd")
    rows = next(whole.shard_rows(0, arrow_schema(whole.info).names, 9))
    batch = from_arrow(rows, whole.info, whole.info.stored, images=True)
    writer = shard_writer(folder.path, folder.info, 0)
    writer.write(replace(batch, latents={k: latents + 0.1 for k, latents in batch.latents.items()}))
    commit_shard(folder, 0, writer.commit())
    assert run("verify", tmp_path / "odd").code == 0
    outcome = run("verify", tmp_path / "odd", "--regenerate", "6")
    assert outcome.code == 1
    assert "made again, its latent at 0 differs by 0.1" in outcome.out


def test_publish_shows_what_it_would_send(run: Run, bench: Path) -> None:
    outcome = run("publish", bench, "user/name", "--dry-run")
    assert outcome.code == 0
    assert "data/test-00000-of-00002.parquet" in outcome.out
    assert "# " in outcome.out  # the card


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--batch-size", "few", "--batch-size few is out of range: give auto, or 1 or more"),
        ("--num-workers", "-1", "--num-workers -1 is out of range"),
        ("--device", "gpu", "no device gpu here"),
        ("--dtype", "float8", "unknown dtype float8"),
    ],
)
def test_how_to_score_is_checked(run: Run, bench: Path, option: str, value: str, words: str) -> None:
    outcome = run("evaluate", "--bench", bench, option, value)
    assert outcome.code == 2
    assert words in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_options_that_do_not_exist_are_exit_code_2_too(run: Run) -> None:
    outcome = run("evaluate", "--latent", "20")
    assert outcome.code == 2
    assert "--latents" in outcome.err


@pytest.mark.slow
def test_debug_shows_where_an_error_came_from(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "nbench", "evaluate", "--bench", str(tmp_path), "--debug"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "Traceback" in done.stderr
    assert "NbenchError: no bench at" in done.stderr


def test_an_interrupted_build_says_that_it_can_be_resumed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(building, "build", interrupted)
    outcome = run("build", "genai-bench")
    assert outcome.code == 130
    assert outcome.err == "interrupted: run the same command again to resume\n"
