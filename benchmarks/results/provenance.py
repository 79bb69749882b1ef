"""Provenance of a result: versions, commit, device and times."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ... import __version__

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("diffusers", "numpy", "pyarrow", "scipy", "torch", "transformers")


class Provenance(BaseModel):
    """nbench: its version; commit: of the checkout it ran from, if any; started: UTC, ISO 8601; seconds: wall clock;
    source: a hash of the model's path or id, which differs for two folders of the same name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    nbench: str
    packages: dict[str, str] = {}
    commit: str | None = None
    device: str | None = None
    started: str | None = None
    seconds: float | None = None
    source: str | None = None


def provenance(started: datetime, device: str | None = None) -> Provenance:
    """The provenance of a run that began at `started` (with its time zone) and ends now.

    >>> provenance(datetime.now(UTC)).nbench == __version__
    True
    """
    return Provenance(
        nbench=__version__,
        packages={name: installed for name in _PACKAGES if (installed := _version(name))},
        commit=_commit(_ROOT),
        device=device,
        started=started.astimezone(UTC).isoformat(timespec="seconds"),
        seconds=round((datetime.now(UTC) - started).total_seconds(), 3),
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit(root: Path) -> str | None:
    """The commit of the checkout at `root`, with `+` if files differ from it; None unless `root` is the top of one."""
    try:
        top, commit = _git(root, "rev-parse", "--show-toplevel", "HEAD").split("\n")
        if Path(top).resolve() != root:
            return None
        return commit + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
