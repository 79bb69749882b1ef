"""Files that are there whole or not at all: temporary name, fsync, rename."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import NbenchError, reason_of


def temporary(path: Path) -> Path:
    """Where `path` is written before `commit`: always the same name, so that a killed run leaves nothing behind."""
    return path.with_name(f".{path.name}.tmp")


def commit(path: Path) -> None:
    """Give the finished temporary file of `path` its name, and make both the bytes and the name durable."""
    with temporary(path).open("rb+") as file:
        os.fsync(file.fileno())
    temporary(path).replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def atomic_write(path: Path, data: bytes) -> None:
    """Write `data` to `path`; a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary(path).write_bytes(data)
    commit(path)


def write_out(path: Path, content: str | bytes) -> None:
    """Write the file that a command was told to leave at `path`; atomic.

    Raises:
        NbenchError: it cannot be written, or is a folder.
    """
    if path.is_dir():
        raise NbenchError(f"cannot write {path}: it is a folder; name a file")
    try:
        atomic_write(path, content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise NbenchError(f"cannot write {path}: {reason_of(error)}; choose another --out") from None


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """What goes wrong inside (no space, no right, a folder that is gone) is the user's to mend, and says so."""
    try:
        yield
    except OSError as error:
        raise NbenchError(
            f"cannot write {path} ({reason_of(error)}): what was finished before is kept; mend that and run the "
            "same command"
        ) from None
