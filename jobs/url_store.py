"""A job's files at any other URL that fsspec writes to; as such places may overwrite files, one worker writes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import NbenchError, StorageError, reason_of
from .scratch import scratch_folder

_TIMES = ("last_modified", "LastModified", "mtime", "created", "uploaded_at")
"""Where filesystems tell when a file was changed."""


@dataclass(frozen=True)
class UrlStore:
    """The files below `url`, such as hf://buckets/user/name/folder or sftp://host/folder.

    Creating a file looks first, and then writes: right for one worker, not for two.
    """

    url: str

    def attempt(self, index: int) -> AbstractContextManager[Path]:
        """A temporary folder on this machine."""
        return scratch_folder()

    def put(self, name: str, file: Path, sha256: str) -> tuple[int, str]:
        """Copy the file unless there is one."""
        with self._asking("write", name) as (fs, path):
            if fs.exists(path):
                with fs.open(path, "rb") as present:
                    return int(fs.info(path)["size"]), hashlib.file_digest(present, "sha256").hexdigest()
            fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            fs.put_file(str(file), path)
            return file.stat().st_size, sha256

    def create(self, name: str, content: bytes) -> bool:
        """Write a file unless there is one."""
        with self._asking("write", name) as (fs, path):
            if fs.exists(path):
                return False
        self.write(name, content)
        return True

    def read(self, name: str) -> bytes | None:
        """The content; None if there is no such file."""
        with self._asking("read", name) as (fs, path):
            try:
                return bytes(fs.cat_file(path))
            except (FileNotFoundError, NotADirectoryError):
                return None

    def read_all(self, names: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
        """One after another."""
        return ((name, self.read(name)) for name in names)

    def write(self, name: str, content: bytes) -> None:
        """Write or replace a file."""
        with self._asking("write", name) as (fs, path):
            fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            fs.pipe_file(path, content)

    def move(self, name: str, to: str) -> None:
        """Move it, as the filesystem does that."""
        with self._asking("write", to) as (fs, path):
            fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            fs.mv(f"{_opened(self.url)[1]}/{name}", path)

    def remove(self, names: Iterable[str]) -> None:
        """Remove the files that exist."""
        for name in names:
            with self._asking("remove", name) as (fs, path):
                if fs.exists(path):
                    fs.rm_file(path)

    def remove_folder(self, folder: str) -> None:
        """Remove the files below `folder`."""
        self.remove(self.list(folder))

    def list(self, folder: str) -> dict[str, tuple[int, float]]:
        """Sizes of all files below `folder`, and when they were changed where the filesystem tells it, else 0."""
        with self._asking("list", folder) as (fs, path):
            try:
                files = fs.find(path, detail=True)
            except (FileNotFoundError, NotADirectoryError):
                return {}
            start = len(_opened(self.url)[1]) + 1
            return {found[start:]: (int(entry["size"]), _changed(entry)) for found, entry in files.items()}

    def folders(self, folder: str) -> Sequence[str]:
        """The folders directly below `folder`."""
        with self._asking("list", folder) as (fs, path):
            start = len(_opened(self.url)[1]) + 1
            entries = fs.ls(path, detail=True) if fs.exists(path) else []
            return [entry["name"].rstrip("/")[start:] for entry in entries if entry["type"] == "directory"]

    def probe(self) -> None:
        """Refuse shared work."""
        raise NbenchError(
            f"{self.url} cannot refuse to overwrite a file, so processes cannot share work there: use one worker, or a "
            "bucket of S3, Google Cloud Storage or Azure"
        )

    @contextmanager
    def _asking(self, what: str, name: str) -> Iterator[tuple[Any, str]]:
        """The filesystem and the full path of `name`; errors inside become NbenchErrors."""
        fs, root = _opened(self.url)
        fs.invalidate_cache()  # what others wrote
        try:
            yield fs, f"{root}/{name}".rstrip("/")
        except Exception as error:  # every filesystem of fsspec raises its own types
            raise StorageError(
                f"cannot {what} {self.url}/{name} ({reason_of(error)}): finished units are kept; fix the cause and run "
                "the same command"
            ) from None


@lru_cache
def _opened(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        fs, root = fsspec.core.url_to_fs(url)
    except Exception as error:  # every filesystem of fsspec raises its own types
        raise NbenchError(f"cannot open {url}: {reason_of(error)}") from None
    return fs, root.rstrip("/")


def _changed(entry: dict[str, Any]) -> float:
    changed = next((entry[name] for name in _TIMES if entry.get(name)), 0.0)
    return float(changed.timestamp() if hasattr(changed, "timestamp") else changed)
