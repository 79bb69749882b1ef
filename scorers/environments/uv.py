"""Runs uv: environments of scripts with inline metadata (PEP 723), and environments from pins."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ...errors import NbenchError
from .pipes import Printed

_METADATA = re.compile(r"^# /// script\s*$.*?^# ///\s*$", re.MULTILINE | re.DOTALL)


def uv_path(purpose: str) -> str:
    """The program uv.

    Raises:
        NbenchError: it is not installed.
    """
    beside = shutil.which("uv", path=str(Path(sys.executable).parent))
    program = shutil.which("uv") or beside
    if program is None:
        raise NbenchError(f"{purpose} needs uv, which makes environments: install it with `pip install uv`")
    return program


def run_uv(arguments: Sequence[str | Path], purpose: str) -> str:
    """Run uv, which never downloads a Python; returns its standard output. What else it prints goes to standard error.

    Raises:
        NbenchError: it is not installed, or it fails.
    """
    command = [uv_path(purpose), *arguments]
    process = subprocess.Popen(
        command,
        env=os.environ | {"UV_PYTHON_DOWNLOADS": "never"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=False,
    )
    printed = Printed(process.stderr)
    assert process.stdout is not None
    output = process.stdout.read().decode()
    if process.wait():
        raise NbenchError(f"{purpose}: uv failed with exit code {process.returncode}{printed.last}")
    return output


def script_python(script: str) -> Path:
    """The Python of a script's own environment, which uv makes from the script's metadata and keeps.

    Raises:
        NbenchError: no such file, it has no metadata, or uv cannot make the environment.
    """
    path = Path(script)
    if not path.is_file():
        raise NbenchError(f"no file {script}: `nbench models new {path.name}` writes one")
    if not _METADATA.search(path.read_text(encoding="utf-8", errors="replace")):
        raise NbenchError(
            f"{script} has no inline metadata (PEP 723) that lists its dependencies: "
            f"`uv add --script {path.name} numpy` adds it"
        )
    purpose = f"uv:{script}"
    run_uv(["sync", "--script", path], purpose)
    return Path(run_uv(["python", "find", "--script", path], purpose).strip())
