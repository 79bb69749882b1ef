"""A language model's answers, saved as they come, so that neither a crash nor a second run pays for them again."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
from dataclasses import asdict
from pathlib import Path

from ...errors import NbenchError
from .change import Change


class AnswerFile:
    """One JSON object per line, appended as answers come; a line that a killed run left unfinished is cut off.

    A context manager; thread-safe.

    Raises:
        NbenchError: another process has it open.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._changes: dict[str, Change] = {}
        self._file = path.open("ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise NbenchError(f"{path} is in use: another run writes to it; wait until it ends") from None
        valid_bytes = 0
        for line in path.read_bytes().splitlines(keepends=True):
            if (entry := _read(line)) is None:
                break
            self._changes[entry[0]] = entry[1]
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


def answer_key(*parts: object) -> str:
    """A key of all that decides an answer."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _read(line: bytes) -> tuple[str, Change] | None:
    try:
        fields = json.loads(line) if line.endswith(b"\n") else None
        return (fields.pop("key"), Change(**fields)) if isinstance(fields, dict) else None
    except (ValueError, KeyError, TypeError):
        return None
