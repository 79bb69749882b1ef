"""Where a job's files, records and claims are kept: the few operations that every store has, and a local folder."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import get_ident
from typing import Protocol
from uuid import uuid4

from ..errors import NbenchError, StorageError, reason_of

ATTEMPTS = ".attempts"
"""Folder of a local store with the unfinished files of attempts."""
_PROCESS = uuid4().hex
"""Tells this process from those of other machines with its pid."""
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}


class Store(Protocol):
    """A folder or bucket that many processes share. Picklable; names are relative, with "/" between folders.

    Every method raises `StorageError` if the store cannot be reached or written, after retries of what is transient.
    """

    @property
    def url(self) -> str:
        """The place in messages: a path or a URL."""

    def attempt(self, index: int) -> AbstractContextManager[Path]:
        """A new local folder for the files of one attempt at unit `index`; removed afterwards."""

    def put(self, name: str, file: Path, sha256: str) -> tuple[int, str]:
        """Store the local `file` under `name` unless something is there; size and SHA-256 of what is there now.

        These are those of `file`, or of the file of whoever was first, which the caller adopts.
        """

    def create(self, name: str, content: bytes) -> bool:
        """Write a small file unless there is one of this name; whether it was written. Readers see it whole."""

    def read(self, name: str) -> bytes | None:
        """The content of a small file; None if there is none."""

    def read_all(self, names: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
        """The contents of many small files, several at a time where a request takes long; in the order of `names`."""

    def write(self, name: str, content: bytes) -> None:
        """Write a small file, or replace it; readers see the old or the new content, never a part."""

    def move(self, name: str, to: str) -> None:
        """Give a file another name, in place of the file that has it."""

    def remove(self, names: Iterable[str]) -> None:
        """Remove the files that exist."""

    def remove_folder(self, folder: str) -> None:
        """Remove all files below `folder`, unfinished ones too."""

    def list(self, folder: str) -> dict[str, tuple[int, float]]:
        """Size in bytes and time of the last change (by the store's clock) of all files below `folder`, by name."""

    def folders(self, folder: str) -> Sequence[str]:
        """The folders directly below `folder`."""

    def probe(self) -> None:
        """Check that `create` and `put` refuse to overwrite.

        Raises:
            NbenchError: they do not, so that processes cannot share the work.
        """


@dataclass(frozen=True)
class LocalStore:
    """The local folder `root`, which several processes and, on a shared disk, several machines may use.

    Create-only writes are hard links, which are atomic on local disks and NFS alike.
    """

    root: Path

    def __getstate__(self) -> dict[str, Path]:
        """Another process may have another working folder."""
        return {"root": self.root.absolute()}

    @property
    def url(self) -> str:
        """The path."""
        return str(self.root)

    @contextmanager
    def attempt(self, index: int) -> Iterator[Path]:
        """A folder below the root, so that finished files need no copy; emptied afterwards for this thread's next one.

        It is not removed, which takes longer than all else that a small unit costs.
        """
        folder = self.root / ATTEMPTS / f"{_PROCESS}-{os.getpid()}-{get_ident()}"
        with self._writing(ATTEMPTS):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            yield folder
        finally:
            with suppress(OSError):  # somebody has removed it
                for path in list(folder.iterdir()):
                    if path.is_dir():
                        shutil.rmtree(path, ignore_errors=True)
                    else:
                        path.unlink(missing_ok=True)

    def put(self, name: str, file: Path, sha256: str) -> tuple[int, str]:
        """Make the file durable, then link it to its name."""
        with self._writing(name):
            _sync(file)
            target = self._prepared(name)
            if not _link(file, target):
                with target.open("rb") as present:
                    sha256 = hashlib.file_digest(present, "sha256").hexdigest()
            _sync(target.parent)
            return target.stat().st_size, sha256

    def create(self, name: str, content: bytes) -> bool:
        """Write under a temporary name, then link."""
        with self._writing(name):
            target, unfinished = self._prepared(name), self._unfinished(content)
            try:
                return _link(unfinished, target)
            finally:
                unfinished.unlink(missing_ok=True)

    def read(self, name: str) -> bytes | None:
        """The content; None if there is no such file."""
        try:
            return (self.root / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StorageError(f"cannot read {self.root / name}: {reason_of(error)}") from None

    def read_all(self, names: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
        """One after another."""
        return ((name, self.read(name)) for name in names)

    def write(self, name: str, content: bytes) -> None:
        """Write under a temporary name, make it durable, then rename."""
        with self._writing(name):
            target, unfinished = self._prepared(name), self._unfinished(content)
            _sync(unfinished)
            unfinished.replace(target)

    def move(self, name: str, to: str) -> None:
        """Rename it, and make that durable."""
        with self._writing(to):
            target = self._prepared(to)
            (self.root / name).replace(target)
            _sync(target.parent)

    def remove(self, names: Iterable[str]) -> None:
        """Remove the files; folders stay, since removing one takes long."""
        for name in names:
            with self._writing(name), suppress(FileNotFoundError, NotADirectoryError):
                os.unlink(f"{self.root}/{name}")  # noqa: PTH108  # Path is slow, and there may be 100,000

    def remove_folder(self, folder: str) -> None:
        """Remove the folder."""
        shutil.rmtree(self.root / folder, ignore_errors=True)

    def list(self, folder: str) -> dict[str, tuple[int, float]]:
        """Size and time of the last change of all files below `folder`."""
        return dict(self._files(folder))

    def folders(self, folder: str) -> Sequence[str]:
        """The folders directly below `folder`."""
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.root / folder) as entries:
            return [f"{folder}/{entry.name}".lstrip("/") for entry in entries if entry.is_dir()]
        return []

    def probe(self) -> None:
        """Check that the folder can be written, and that its disk has hard links."""
        name = f"{ATTEMPTS}/probe-{uuid4().hex}"
        try:
            if not self.create(name, b"first") or self.create(name, b"second"):
                raise NbenchError(
                    f"{self.root} lets a second writer overwrite a file: use another disk for shared work"
                )
        finally:
            self.remove([name])

    def _files(self, folder: str) -> Iterator[tuple[str, tuple[int, float]]]:
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.root / folder) as entries:
            for entry in entries:
                name = f"{folder}/{entry.name}".lstrip("/")
                if entry.is_dir(follow_symlinks=False):
                    yield from self._files(name)
                else:
                    with suppress(FileNotFoundError):  # removed meanwhile
                        stat = entry.stat()
                        yield name, (stat.st_size, stat.st_mtime)

    def _prepared(self, name: str) -> Path:
        target = self.root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def _unfinished(self, content: bytes) -> Path:
        """A new file with `content`, in the folder that `remove_folder(ATTEMPTS)` clears."""
        path = self.root / ATTEMPTS / uuid4().hex
        try:
            path.write_bytes(content)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return path

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"cannot write {self.root / name} ({reason_of(error)}): finished files are kept; fix the cause and run "
                "the same command"
            ) from None


def _link(source: Path, target: Path) -> bool:
    """Give `source` the name `target` unless that exists; whether it was given. Without hard links, not atomic."""
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if target.exists():
            return False
        source.replace(target)
    return True


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
