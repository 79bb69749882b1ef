"""Atomic file writes: temporary name, fsync, rename."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import NbenchError, StorageError, reason_of


def temporary(path: Path) -> Path:
    """Where `path` is written before `commit`: always the same name, so a killed run leaves no pile of files."""
    return path.with_name(f".{path.name}.tmp")


def commit(path: Path) -> None:
    """Rename the finished temporary file to `path`, and make both bytes and name durable."""
    _rename(temporary(path), path)


def atomic_write(path: Path, data: bytes | memoryview) -> None:
    """Write `data` to `path`; a reader sees either the old file or the new one, never a part.

    Several processes may write one file at a time: the last one counts.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    own = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        own.write_bytes(data)
        _rename(own, path)
    finally:
        own.unlink(missing_ok=True)


def _rename(unfinished: Path, path: Path) -> None:
    with unfinished.open("rb+") as file:
        os.fsync(file.fileno())
    unfinished.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_out(path: Path, content: str | bytes) -> None:
    """Write a command's output file to `path`; atomic.

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
    """Turn an OSError raised inside (disk full, no permission, folder removed) into a StorageError about `path`."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot write {path} ({reason_of(error)}): finished files are kept; fix the cause and run the same command"
        ) from None
