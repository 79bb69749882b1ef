"""Packages in environments of their own: how they are made, found and reported; t2v: by a stand-in of its package.

The real packages are compared by `make test-envs`; here their environment is this one, with a small package in it.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nbench.errors import NbenchError
from nbench.scorers.check import PROMPTS, WORLD
from nbench.scorers.environments import packages, uv
from nbench.scorers.environments.packages import PACKAGES, environment_report, make_environment, python_of
from nbench.scorers.registry import get_scorer

from ...conftest import Run

FAMILY = """
import re
import numpy as np
import torch
from PIL import Image

CLIP_T5_MODELS = {"clip-small": {"model": {"path": "there"}}, "clip-large": {}}


class CLIPT5Model:
    def __init__(self, name, device, cache_dir):
        self.name, self.model = name, None
        self.load_model()

    def load_model(self):
        print("loading", self.name)
        self.model = torch.nn.Linear(1, 1, dtype=torch.bfloat16)

    def forward(self, images, texts):
        assert self.model.weight.dtype == torch.float32
        pixels = np.asarray(Image.open(images[0]).convert("RGB"))
        weights = np.arange(pixels.size).reshape(pixels.shape) % 7
        return torch.tensor([(pixels * weights).sum() / pixels.size + len(texts[0])])
"""


@pytest.fixture
def t2v(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished environment t2v_metrics: this Python, with a package of its layout that fails to import as a whole."""
    monkeypatch.setenv(packages.FOLDER, str(tmp_path))
    folder, site = tmp_path / "t2v_metrics", tmp_path / "site"
    models = site / "t2v_metrics" / "models" / "vqascore_models"
    models.mkdir(parents=True)
    for package in (site / "t2v_metrics", models.parent, models):
        (package / "__init__.py").write_text("raise RuntimeError('ffmpeg is a required system requirement')\n")
    (models / "clip_t5_model.py").write_text(FAMILY)
    (models / "other_model.py").write_text("import nothing_like_it\nOTHER_MODELS = {'other-7b': 1}\n")
    info = site / "t2v_metrics-3.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: t2v-metrics\nVersion: 3.0\n")
    (info / "top_level.txt").write_text("t2v_metrics\n")
    (folder / "bin").mkdir(parents=True)
    python = folder / "bin" / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{site}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (folder / packages._MARK).write_text("{}")
    return folder


@pytest.mark.slow
def test_t2v_metrics_scores_in_its_environment(t2v: Path, capfd: pytest.CaptureFixture[str]) -> None:
    scorer: Any = get_scorer("t2v:clip-small", WORLD)
    assert (scorer.name, scorer.reads) == ("t2v-clip-small", "image")
    assert scorer.fingerprint.startswith("t2v-metrics-3.0-clip-small-float32-")
    assert scorer.versions["t2v-metrics"] == "3.0"
    pixels = np.random.default_rng(0).integers(0, 256, (2, 12, 8, 3))
    images = torch.tensor(pixels).permute(0, 3, 1, 2).float() / 255
    weights = np.arange(12 * 8 * 3).reshape(12, 8, 3) % 7
    expected = [(row * weights).sum() / row.size + len(text) for row, text in zip(pixels, PROMPTS, strict=False)]
    assert scorer.score(images, PROMPTS[:2]).tolist() == pytest.approx(expected, rel=1e-6)
    assert "loading clip-small" in capfd.readouterr().err
    with pytest.raises(
        NbenchError, match=r"t2v:clip-smal cannot be .* no model clip-smal \(did you mean clip-small\?\): there"
    ):
        get_scorer("t2v:clip-smal", WORLD)
    with pytest.raises(NbenchError, match="ModuleNotFoundError: No module named 'nothing_like_it'"):
        get_scorer("env:t2v_metrics:other-7b", WORLD)


@pytest.mark.slow
def test_missing_parts_are_named(t2v: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    lines = list(environment_report("t2v_metrics"))
    assert lines[0].startswith("torch 2.")
    assert "no FFmpeg on this machine" in lines[1]
    assert lines[2] == "models of other_model cannot be used: ModuleNotFoundError: No module named 'nothing_like_it'"
    assert lines[3] == "models: clip-small, clip-large"
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/" + name)
    assert not any("FFmpeg" in line for line in environment_report("t2v_metrics"))


def test_no_environment_is_made_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(packages.FOLDER, str(tmp_path))
    monkeypatch.setattr(packages, "run_uv", None)
    for name, package in (("t2v:clip-flant5-xxl", "t2v_metrics"), ("env:hpsv3", "hpsv3")):
        message = f"{package} has no environment at {tmp_path / package}: `nbench env {package}` makes it"
        with pytest.raises(NbenchError, match=re.escape(message)):
            get_scorer(name, WORLD)
    with pytest.raises(NbenchError, match="no pins of hpsv2: there are t2v_metrics, image-reward, hpsv3"):
        get_scorer("env:hpsv2", WORLD)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", PACKAGES)
def test_pins_are_exact_and_have_what_a_worker_needs(name: str) -> None:
    lines = (packages.HERE / "pins" / f"{name}.txt").read_text().splitlines()[1:]
    pinned = dict(line.split("==") for line in lines)
    assert len(pinned) == len(lines)
    assert {"numpy", "torch", "torchvision", "typing-extensions"} <= set(pinned)
    assert all(re.fullmatch(r"[\w.]+", version) for version in pinned.values())  # no build such as +cpu


def test_an_environment_is_made_once_from_its_pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    broken = True

    def run_uv(arguments: list[Any], purpose: str) -> str:
        commands.append([str(argument) for argument in arguments])
        if arguments[0] == "venv":
            Path(arguments[-1]).mkdir(parents=True, exist_ok=True)
        elif "--no-deps" in arguments:
            pins = Path(arguments[-1]).read_text()
            assert "hpsv3==1.0.0\n" in pins
            assert "torch==" not in pins
        elif broken:
            raise NbenchError("no disk")
        return ""

    monkeypatch.setenv(packages.FOLDER, str(tmp_path))
    monkeypatch.setattr(packages, "run_uv", run_uv)
    with pytest.raises(NbenchError, match="no disk"):
        make_environment("hpsv3")
    with pytest.raises(NbenchError, match="has no environment"):  # it is not finished
        python_of("hpsv3")
    broken = False
    commands.clear()
    folder = make_environment("hpsv3", "cpu")
    assert python_of("hpsv3") == folder / "bin" / "python"
    assert [command[0] for command in commands] == ["venv", "pip", "pip"]
    assert commands[2][-4:] == ["--torch-backend", "cpu", "torch==2.13.0", "torchvision==0.28.0"]
    commands.clear()
    make_environment("hpsv3", "cpu")
    assert commands == []
    make_environment("hpsv3")  # another build of torch
    assert "--torch-backend" not in commands[2]
    commands.clear()
    make_environment("hpsv3", fresh=True)
    assert len(commands) == 3


def test_uv_missing_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: Run) -> None:
    script = tmp_path / "mine.py"
    monkeypatch.setattr(shutil, "which", lambda *names, **path: None)
    monkeypatch.setenv(packages.FOLDER, str(tmp_path))
    outcome = run("env", "hpsv3")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == (
        "error: the environment hpsv3 needs uv, which makes environments: install it with `pip install uv`\n"
    )
    script.write_text("class Mine: pass\n")
    with pytest.raises(
        NbenchError, match=r"has no inline metadata \(PEP 723\).*`uv add --script mine\.py numpy` adds it"
    ):
        get_scorer(f"uv:{script}:Mine", WORLD)
    script.write_text("# /// script\n# dependencies = []\n# ///\n")
    with pytest.raises(NbenchError, match="needs uv"):
        get_scorer(f"uv:{script}:Mine", WORLD)
    with pytest.raises(NbenchError, match=r"is not a script's class: give uv:FILE\.py:CLASS"):
        get_scorer("uv:mine:Mine", WORLD)


def test_what_uv_says_is_in_the_message(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NbenchError, match="trying: uv failed with exit code 2; it last printed: "):
        uv.run_uv(["no-such-command"], "trying")
    assert "no-such-command" in capfd.readouterr().err
