"""Reads a data set under guard: in bounded time and memory, and nothing is written, started or unpickled meanwhile."""

from __future__ import annotations

import os
import resource
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nbench.errors import NbenchError
from nbench.shards.reader import open_bench
from nbench.shards.verify import verify

SECONDS = 60
"""What takes longer hangs, even on a busy machine: these data sets have a few kilobytes."""
MOST_MEMORY = 2**30
FORBIDDEN = ("pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect")
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.truncate")


class Hang(BaseException):
    """No exception that any reader may take for damage."""


class _Watch:
    """Records what a reader must never do. An audit hook cannot be removed, so one hook is switched on and off."""

    def __init__(self) -> None:
        self.on, self.events = False, list[str]()
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on or "__pycache__" in str(args[:1]):  # a module is imported for the first time
            return
        if event in {"open", *CHANGES} and _in_scratch(args):  # where a check keeps its records
            return
        if event == "open":
            mode, flags = args[1], args[2] or 0
            if (mode and set(mode) & set("wax+")) or flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                self.events.append(f"{event} {args}")
        elif event in FORBIDDEN or event in CHANGES:
            self.events.append(f"{event} {args}")


def _in_scratch(args: tuple[Any, ...]) -> bool:
    """Whether a path, perhaps relative to the folder of a descriptor, is in a temporary folder of nbench."""
    path, descriptor = Path(str(args[0])), args[-1]
    if not path.is_absolute() and isinstance(descriptor, int) and descriptor >= 0:
        path = Path(f"/proc/self/fd/{descriptor}").resolve() / path
    return str(path).startswith(str(Path(tempfile.gettempdir()) / "nbench-scratch-"))


_watch = _Watch()


@contextmanager
def watched() -> Iterator[None]:
    """Nothing may be written, started or unpickled meanwhile, and it must come to an end with little memory."""

    def stop(*_: object) -> None:
        raise Hang(f"still at it after {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _watch.on, _watch.events = True, []
    try:
        yield
    finally:
        _watch.on = False
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert not _watch.events, _watch.events
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) * 1024 < MOST_MEMORY


def read_all(folder: Path) -> None:
    bench = open_bench(folder)
    assert sum(len(batch) for batch in bench.batches(bench.info.stored, images=True, batch_size=3)) <= 10_000
    assert len(bench.prompts) <= 10_000
    assert bench.n_failed <= 10_000
    assert bench.references is not None


def look(folder: Path) -> list[str]:
    """The errors and defects from reading and verifying a data set."""
    complaints = []
    with watched():
        try:
            read_all(folder)
        except NbenchError as error:
            complaints.append(str(error))
        try:
            complaints += map(str, verify(folder).defects)
        except NbenchError as error:
            complaints.append(str(error))
    for line in complaints:
        assert line
        assert "\n" not in line
        line.encode()  # can be printed
    return complaints
