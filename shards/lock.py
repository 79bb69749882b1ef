"""A folder that one process at a time may write to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import lock_descriptor

from ..errors import NbenchError


@contextmanager
def locked(folder: Path, taken: str) -> Iterator[None]:
    """Hold `folder`, which is made if need be, against everybody else who asks for it; its holder may remove it.

    The lock lies on the folder itself: no file is left behind, and the kernel drops it when its holder is killed.

    Raises:
        NbenchError: `taken`, if somebody else holds it.
        OSError: the folder cannot be made.
    """
    handle = None
    while handle is None:
        handle = _lock(folder, taken)
    try:
        yield
    finally:
        os.close(handle)


def _lock(folder: Path, taken: str) -> int | None:
    """A handle of `folder` that has its lock; None if its last holder removed it meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError), ExitStack() as opened:
        handle = os.open(folder, os.O_RDONLY)
        opened.callback(os.close, handle)
        if not lock_descriptor(handle, blocking=False):
            raise NbenchError(taken)
        if os.path.samestat(os.fstat(handle), folder.stat()):
            opened.pop_all()
            return handle
    return None
