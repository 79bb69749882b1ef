"""Where a data set lies: a folder of this machine, a data set on the Hub, or any URL that fsspec opens."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from ..errors import NbenchError, reason_of

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@dataclass(frozen=True)
class Location:
    """A folder at `url` on the filesystem `fs` (of fsspec), where it is called `root`."""

    url: str
    fs: Any
    root: str

    @classmethod
    def of(cls, where: str | Path, hub_ids: bool = True) -> Location:
        """The location that a person means: a path, a URL, or the Hub id of a data set, where no such folder is.

        Raises:
            NbenchError: a URL of a kind that fsspec does not know, or whose package is not installed.
        """
        import fsspec

        text = str(where)
        # `data/new` is no Hub id where there is a folder `data`
        if hub_ids and isinstance(where, str) and _HUB_ID.fullmatch(text) and not Path(text).parent.exists():
            text = f"hf://datasets/{text}"
        try:
            fs, root = fsspec.core.url_to_fs(text)
        except Exception as error:  # every filesystem of fsspec raises its own kinds
            raise NbenchError(f"cannot open {text}: {reason_of(error)}") from None
        return cls(text, fs, root.rstrip("/"))

    @property
    def folder(self) -> Path | None:
        """The folder, where it is one of this machine."""
        return Path(self.root) if "file" in _protocols(self.fs) else None

    def same(self, other: Location) -> bool:
        """Whether both are one folder."""
        if self.folder and other.folder:
            return os.path.realpath(self.folder) == os.path.realpath(other.folder)
        return type(self.fs) is type(other.fs) and self.root == other.root

    def open(self, name: str) -> Path | BinaryIO:
        """What is at `name`, to be read: a path on this machine, else a file that fetches only the ranges asked for."""
        if self.folder:
            return self.folder / name
        with self._reading(name):
            return cast(BinaryIO, self.fs.open(f"{self.root}/{name}", "rb", cache_type="none"))

    def read(self, name: str) -> bytes:
        """The bytes of a small file.

        Raises:
            FileNotFoundError: there is none.
            NbenchError: it cannot be read.
        """
        if self.folder and not (self.folder / name).is_file():  # to read from a pipe would be to wait for ever
            raise FileNotFoundError(f"{self.root}/{name}")
        with self._reading(name):
            return bytes(self.fs.cat_file(f"{self.root}/{name}"))

    def send(self, path: Path, name: str) -> None:
        """Copy a file of this machine to `name`.

        Raises:
            NbenchError: it cannot be written there.
        """
        try:
            self.fs.makedirs(f"{self.root}/{name}".rpartition("/")[0], exist_ok=True)
            self.fs.put_file(str(path), f"{self.root}/{name}")
        except Exception as error:  # every filesystem of fsspec raises its own kinds
            raise NbenchError(f"cannot write {self.url}/{name}: {reason_of(error)}") from None

    def size(self, name: str) -> int | None:
        """The bytes of a file, None where there is none (a folder or a pipe is none)."""
        try:
            with self._reading(name):
                entry = self.fs.info(f"{self.root}/{name}")
            return int(entry["size"]) if entry["type"] == "file" else None
        except (FileNotFoundError, NotADirectoryError):
            return None

    def names(self, folder: str, suffix: str) -> list[str]:
        """The files in a folder of it that end so, by name; none where there is no such folder."""
        try:
            with self._reading(folder):
                paths = self.fs.ls(f"{self.root}/{folder}", detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(f"{folder}/{Path(path).name}" for path in paths if path.endswith(suffix))

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError):
            raise
        except Exception as error:  # every filesystem of fsspec raises its own kinds
            raise NbenchError(f"cannot read {self.url}/{name}: {reason_of(error)}") from None


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
