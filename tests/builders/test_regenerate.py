"""Candidates made again: the pipeline that made them is found where it lies now, and no other is taken for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nbench.builders.build import build
from nbench.builders.config import BuildConfig
from nbench.builders.regenerate import regenerate
from nbench.builders.spec import maker_of
from nbench.cli import main
from nbench.errors import NbenchError
from nbench.shards.reader import open_bench

from ..tiny_pipelines import Family

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def moved(sd15_folder: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A data set, and the pipeline that made it, which has another name by now."""
    before, after, out = tmp_path / "tiny", tmp_path / "models" / "kept", tmp_path / "data"
    shutil.copytree(sd15_folder, before)
    config = BuildConfig("ncc", str(before), out, limit=3, steps=3, latent_dtype="float32")
    build(config, progress=False)
    after.parent.mkdir()
    before.rename(after)
    return out, after


def verified(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """Exit code and all that is said."""
    monkeypatch.setattr("sys.argv", ["nbench", "verify", *map(str, words)])
    with pytest.raises(SystemExit) as exit:
        main()
    output = capsys.readouterr()
    return int(exit.value.code or 0), output.out + output.err


def test_a_folder_that_has_moved_is_named(moved: tuple[Path, Path], monkeypatch: Any, capsys: Any) -> None:
    out, folder = moved
    arguments = (out, "--regenerate", 2)
    code, output = verified(monkeypatch, capsys, *arguments)
    assert (code, "made with a local folder, and tiny is not one; give its folder with --pipeline" in output) == (
        2,
        True,
    ), output
    code, output = verified(monkeypatch, capsys, *arguments, "--pipeline", folder)
    assert (code, "no defects" in output) == (0, True), output
    code, output = verified(monkeypatch, capsys, out, "--pipeline", folder)
    assert (code, "--pipeline is for --regenerate" in output) == (2, True), output


def test_another_pipeline_is_refused(moved: tuple[Path, Path], monkeypatch: Any, capsys: Any) -> None:
    out, folder = moved
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"act_fn": "gelu"}))
    code, output = verified(monkeypatch, capsys, out, "--regenerate", 2, "--pipeline", folder)
    assert (code, f"pipeline {folder} is not the one that made this data set" in output) == (2, True), output
    with pytest.raises(NbenchError, match="pipeline shapes is not the one"):
        regenerate(open_bench(out), 1, pipeline="shapes")


def test_candidates_of_every_family_are_made_again(family: Family, family_folder: Path, tmp_path: Path) -> None:
    """In float16, which keeps 1e-3 of what grows into the hundreds (PixArt's here), alone what was made in a batch."""
    build(BuildConfig("ncc", str(family_folder), tmp_path / "data", limit=4, steps=4), progress=False)
    assert regenerate(open_bench(tmp_path / "data"), 4, pipeline=str(family_folder)).defects == ()


def test_imported_candidates_cannot_be_made_again() -> None:
    bench = SimpleNamespace(info=SimpleNamespace(spec={"source": "noisyclip-pt"}))
    with pytest.raises(NbenchError, match="without the seeds"):
        regenerate(bench, 1)  # type: ignore[arg-type]


def test_a_pipeline_of_the_hub_is_no_folder(sd15_folder: Path) -> None:
    spec = {"pipeline": {"name": "lab/tiny", "content": COMMIT}}
    with pytest.raises(NbenchError, match=f"is a folder, but .* with lab/tiny from the Hub at {COMMIT}"):
        maker_of(spec, str(sd15_folder))
