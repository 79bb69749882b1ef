"""Checkpoints of a training run: complete or ignored, of the same recipe or refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from ..errors import NbenchError
from ..shards.atomic import atomic_write

PREFIX = "checkpoint-"
_RECORD = "complete.json"
"""Written last: what the other files of the checkpoint must be."""


def mark_complete(folder: Path, recipe: str) -> None:
    """Record that a checkpoint is whole: its files with their hashes, and the digest of its recipe."""
    files = {path.name: _digest(path) for path in sorted(folder.iterdir()) if path.name != _RECORD}
    atomic_write(folder / _RECORD, (json.dumps({"recipe": recipe, "files": files}, indent=2) + "\n").encode())


def last_checkpoint(out: Path, recipe: str) -> Path | None:
    """The latest whole checkpoint in `out`; older ones serve if it was cut short.

    Raises:
        NbenchError: they are of another recipe, or all are damaged.
    """
    folders = sorted(out.glob(f"{PREFIX}*"), key=_step, reverse=True)
    damaged = False
    for folder in folders:
        if not (folder / _RECORD).exists():
            continue  # killed while it was written
        try:
            record = json.loads((folder / _RECORD).read_bytes())
            whole = all(_digest(folder / name) == digest for name, digest in record["files"].items())
            same = record["recipe"] == recipe
        except (ValueError, OSError, KeyError, TypeError, AttributeError):
            whole = same = False
        if not whole:
            damaged = True
        elif not same:
            raise NbenchError(f"{out} holds another training run: choose another --out or remove it")
        else:
            return folder
    if damaged:
        raise NbenchError(f"{folders[0]} is damaged: remove {out}/{PREFIX}* to train from the beginning")
    return None


def remove_checkpoints(out: Path) -> None:
    """Remove all checkpoints in `out`."""
    for folder in out.glob(f"{PREFIX}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _step(folder: Path) -> int:
    step = folder.name.removeprefix(PREFIX)
    return int(step) if step.isdigit() else -1


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
