"""Temporary folders on this machine; those of killed processes are removed by the next process that needs one."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import lock_descriptor

from ..errors import NbenchError, reason_of

_PREFIX = "nbench-scratch-"
_YOUNG = 60.0
"""Seconds in which a folder without a lock may be one that its owner is about to lock."""


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder, removed at the end; its lock shows other processes that its owner is alive.

    It is in the system's temporary folder, which the environment variable TMPDIR names.

    Raises:
        NbenchError: it cannot be created.
    """
    parent = Path(tempfile.gettempdir())
    _remove_abandoned(parent)
    try:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    except OSError as error:
        raise NbenchError(f"cannot write {parent} ({reason_of(error)}): set TMPDIR to a folder with space") from None
    with _locked(folder):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold the lock of `folder`, unless another process does (False); the kernel releases it when the holder dies."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield lock_descriptor(handle, blocking=False)
    finally:
        os.close(handle)


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # of another user, or just removed
            if time.time() - folder.stat().st_mtime > _YOUNG:
                with _locked(folder) as abandoned:
                    if abandoned:
                        shutil.rmtree(folder, ignore_errors=True)
