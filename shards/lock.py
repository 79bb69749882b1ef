"""A folder that one process at a time may write to."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ..errors import NbenchError


@contextmanager
def locked(folder: Path, taken: str) -> Iterator[None]:
    """Hold `folder`, which is made if need be, against everybody else who asks for it; its holder may remove it.

    The lock lies on the folder itself: no file is left behind, and the kernel drops it when its holder is killed.

    Raises:
        NbenchError: `taken`, if somebody else holds it.
        OSError: the folder cannot be made.
    """
    try:
        handle = _locked(folder)
    except BlockingIOError:
        raise NbenchError(taken) from None
    try:
        yield
    finally:
        os.close(handle)


def _locked(folder: Path) -> int:
    """A handle of `folder` that has its lock."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError), ExitStack() as opened:  # its holder may just be removing it
            handle = os.open(folder, os.O_RDONLY)
            opened.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), folder.stat()):
                opened.pop_all()
                return handle
