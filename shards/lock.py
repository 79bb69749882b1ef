"""A lock by which one process at a time writes to a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import lock_descriptor

from ..errors import NbenchError


@contextmanager
def locked(folder: Path, busy: str) -> Iterator[None]:
    """Hold the lock of `folder`, which is created if needed; the holder may remove the folder.

    The lock is on the folder itself: it leaves no file, and the kernel releases it when the holder is killed.

    Raises:
        NbenchError: another process holds the lock; `busy` is the message.
        OSError: the folder cannot be created.
    """
    handle = None
    while handle is None:
        handle = _lock(folder, busy)
    try:
        yield
    finally:
        os.close(handle)


def _lock(folder: Path, busy: str) -> int | None:
    """An open, locked handle of `folder`; None if its previous holder removed it meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError), ExitStack() as opened:
        handle = os.open(folder, os.O_RDONLY)
        opened.callback(os.close, handle)
        if not lock_descriptor(handle, blocking=False):
            raise NbenchError(busy)
        if os.path.samestat(os.fstat(handle), folder.stat()):
            opened.pop_all()
            return handle
    return None
