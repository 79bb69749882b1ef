"""Environments of scorer packages that cannot be installed beside nbench, made by uv from pins kept here."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import NbenchError, one_line
from .uv import run_uv

HERE = Path(__file__).parent
ADAPTERS = HERE / "adapters.py"
FOLDER = "NBENCH_ENVS"
"""Environment variable: the folder of the environments."""
_MARK = "nbench-env.json"
"""Written last, so that an unfinished environment is not used."""


@dataclass(frozen=True)
class Package:
    """A package: the class of its scorer in `adapters`, its Python, and the `--model` to type."""

    scorer: str
    python: str
    model: str
    about: str


PACKAGES = {
    "t2v_metrics": Package("T2V", "3.11", "t2v:clip-flant5-xxl", "t2v_metrics 3.0: VQAScore by CLIP-FlanT5 and others"),
    "image-reward": Package("ImageReward", "3.11", "env:image-reward", "ImageReward 1.5"),
    "hpsv3": Package("HPSv3", "3.11", "env:hpsv3", "HPSv3 1.0"),
}


def environment_folder(name: str) -> Path:
    """The folder of an environment.

    Raises:
        NbenchError: no such package.
    """
    if name not in PACKAGES:
        raise NbenchError(f"no pins of {one_line(name, 60)}: there are {', '.join(PACKAGES)}")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return Path(os.environ.get(FOLDER) or cache / "nbench" / "envs").expanduser() / name


def python_of(name: str) -> Path:
    """The Python of a finished environment.

    Raises:
        NbenchError: no such package, or its environment has not been made.
    """
    folder = environment_folder(name)
    if not (folder / _MARK).is_file():
        raise NbenchError(f"{name} has no environment at {folder}: `nbench env {name}` makes it")
    return folder / "bin" / "python"


def make_environment(name: str, torch: str | None = None, fresh: bool = False) -> Path:
    """Make the environment of a package, unless it is there with the same pins; returns its folder.

    Args:
        torch: a PyTorch build of uv's `--torch-backend`, such as cpu, cu130 or auto; None: whatever the configured
            package indexes have.

    Raises:
        NbenchError: no such package, uv is missing, or the packages cannot be installed.
    """
    folder, pins = environment_folder(name), HERE / "pins" / f"{name}.txt"
    digest = hashlib.sha256(pins.read_bytes()).hexdigest()
    mark, purpose = {"pins": digest, "torch": torch}, f"the environment {name}"
    if not fresh and _mark_of(folder) == mark:
        return folder
    lines = [line for line in pins.read_text().splitlines() if line and not line.startswith("#")]
    built = [line for line in lines if line.partition("==")[0] in ("torch", "torchvision")]
    run_uv(["venv", "--clear", "--python", PACKAGES[name].python, folder], purpose)
    # the pins are complete and their authors' ranges contradict each other; torch has builds, which need other packages
    others = folder / "pins.txt"
    others.write_text("".join(f"{line}\n" for line in lines if line not in built))
    install: list[str | Path] = ["pip", "install", "--python", folder]
    run_uv([*install, "--no-deps", "--requirements", others], purpose)
    backend = [] if torch is None else ["--torch-backend", torch]
    run_uv([*install, "--constraints", others, *backend, *built], purpose)
    (folder / _MARK).write_text(json.dumps(mark))
    return folder


def environment_report(name: str) -> Iterator[str]:
    """What a finished environment has and what is missing on this machine, one line each.

    Raises:
        NbenchError: the package cannot be imported there.
    """
    python = python_of(name)
    done = subprocess.run([python, ADAPTERS, PACKAGES[name].scorer], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise NbenchError(f"{name} cannot be imported in its environment ({one_line(reason, 200)})")
    parts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    gpu = shutil.which("nvidia-smi") is not None
    if parts["cuda"]:
        there = "" if gpu else ", but no NVIDIA GPU on this machine: it scores on the CPU"
        yield f"torch {parts['torch']} with CUDA {parts['cuda']}{there}"
    else:
        way_out = ": `--torch auto --fresh` installs a build for the GPU" if gpu else ""
        yield f"torch {parts['torch']} without CUDA: it scores on the CPU{way_out}"
    if name == "t2v_metrics" and shutil.which("ffmpeg") is None:
        yield "no FFmpeg on this machine, which t2v_metrics needs for videos; images are scored without it"
    for family, reason in parts.get("missing", {}).items():
        yield f"models of {family} cannot be used: {one_line(str(reason), 120)}"
    if parts.get("models"):
        yield f"models: {', '.join(parts['models'])}"


def _mark_of(folder: Path) -> object:
    try:
        return json.loads((folder / _MARK).read_text())
    except (OSError, ValueError):
        return None
