"""A language model's answers, saved as they come, so that neither a crash nor a second run pays for them again."""

from __future__ import annotations

import fcntl
import glob
import hashlib
import json
import os
import socket
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from ...errors import NbenchError
from .change import Change


class AnswerFile:
    """One JSON object per line, appended as answers come; a line that a killed run left unfinished is cut off.

    `others` are files of other processes, which are only read. A context manager; thread-safe.

    Raises:
        NbenchError: another process has it open.
    """

    def __init__(self, path: Path, others: Iterable[Path] = ()) -> None:
        self._lock = threading.Lock()
        self._changes = {key: change for other in others for key, change, _ in _entries(other.read_bytes())}
        self._file = path.open("ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise NbenchError(f"{path} is in use: another run writes to it; wait until it ends") from None
        valid_bytes = 0
        for key, change, line in _entries(path.read_bytes()):
            self._changes[key] = change
            valid_bytes += len(line)
        self._file.truncate(valid_bytes)

    def __enter__(self) -> AnswerFile:
        return self

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def get(self, key: str) -> Change | None:
        """The answer saved under `key`."""
        return self._changes.get(key)

    def keep(self, key: str, change: Change) -> None:
        """Save an answer: a process killed later does not lose it."""
        line = json.dumps({"key": key} | asdict(change)).encode() + b"\n"
        with self._lock:
            if not self._file.closed:
                self._file.write(line)
                self._file.flush()
            self._changes[key] = change


def own_answers(out: Path, alone: bool) -> Path:
    """Where this process saves answers for the file `out`; alone: no other process does."""
    worker = "" if alone else f".{socket.gethostname()}-{os.getpid()}"
    return out.with_name(f"{out.name}.answers{worker}.jsonl")


def answer_files(out: Path) -> list[Path]:
    """The files with answers for the file `out`."""
    return sorted(out.parent.glob(f"{glob.escape(out.name)}.answers*.jsonl"))


def gather_answers(out: Path) -> None:
    """Put the answers of several processes into one file, when none of these is at work any more."""
    if not (others := [path for path in answer_files(out) if path != own_answers(out, alone=True)]):
        return
    with own_answers(out, alone=True).open("ab") as file:
        for path in others:
            file.writelines(line for _, _, line in _entries(path.read_bytes()))
        file.flush()
        os.fsync(file.fileno())
    for path in others:
        path.unlink()


def answer_key(*parts: object) -> str:
    """A key of all that decides an answer."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _entries(content: bytes) -> Iterator[tuple[str, Change, bytes]]:
    """Key, answer and line, up to a line that is not finished."""
    for line in content.splitlines(keepends=True):
        if (entry := _read(line)) is None:
            return
        yield *entry, line


def _read(line: bytes) -> tuple[str, Change] | None:
    try:
        fields = json.loads(line) if line.endswith(b"\n") else None
        return (fields.pop("key"), Change(**fields)) if isinstance(fields, dict) else None
    except (ValueError, KeyError, TypeError):
        return None
