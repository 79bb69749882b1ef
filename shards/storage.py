"""Where a data set is stored: a local folder, a data set on the Hub, or any URL that fsspec opens."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from ..errors import NbenchError, reason_of
from ..options import Place, lost_url

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@dataclass(frozen=True)
class Location:
    """The folder `url`: path `root` on the fsspec filesystem `fs`."""

    url: str
    fs: Any
    root: str

    @classmethod
    def of(cls, where: Place, hub_ids: bool = True) -> Location:
        """Parse a path, a URL, or the Hub id of a data set (if no such folder exists).

        Raises:
            NbenchError: fsspec does not support the URL, the package for it is not installed, or it is a `Path`.
        """
        import fsspec

        if url := lost_url(where):
            raise NbenchError(f"{url} became a path, which loses a slash: give it as text")
        text = str(where)
        # `data/new` is not a Hub id if there is a folder `data`
        if hub_ids and isinstance(where, str) and _HUB_ID.fullmatch(text) and not Path(text).parent.exists():
            text = f"hf://datasets/{text}"
        try:
            fs, root = fsspec.core.url_to_fs(text)
        except Exception as error:  # every filesystem of fsspec raises its own types
            raise NbenchError(f"cannot open {text}: {reason_of(error)}") from None
        return cls(text, fs, root.rstrip("/"))

    @property
    def folder(self) -> Path | None:
        """The local path; None if it is not on this machine."""
        return Path(self.root) if "file" in _protocols(self.fs) else None

    @property
    def absolute(self) -> Place:
        """The place as processes with another working folder name it."""
        return self.url if self.folder is None else self.folder.absolute()

    @property
    def writable(self) -> bool:
        """Whether files can be written there one by one."""
        return not self.url.startswith(("hf://datasets/", "http://", "https://"))

    def inside(self, other: Location) -> bool:
        """Whether this is the folder `other`, or in it."""
        if self.folder and other.folder:
            return is_inside(self.folder, other.folder)
        root, other_root = (re.sub("/+", "/", location.root) for location in (self, other))
        return type(self.fs) is type(other.fs) and f"{root}/".startswith(f"{other_root}/")

    def open(self, name: str) -> Path | BinaryIO:
        """Open `name` for reading: a local path, else a file that fetches only the requested ranges."""
        if self.folder:
            return self.folder / name
        with self.reading(name):
            return cast(BinaryIO, self.fs.open(f"{self.root}/{name}", "rb", cache_type="none"))

    def read(self, name: str) -> bytes:
        """The bytes of a small file.

        Raises:
            FileNotFoundError: there is none.
            NbenchError: it cannot be read.
        """
        if self.folder and not (self.folder / name).is_file():  # reading from a pipe would block
            raise FileNotFoundError(f"{self.root}/{name}")
        with self.reading(name):
            return bytes(self.fs.cat_file(f"{self.root}/{name}"))

    def size(self, name: str) -> int | None:
        """The size of a file in bytes; None if there is no regular file."""
        try:
            with self.reading(name):
                entry = self.fs.info(f"{self.root}/{name}")
            return int(entry["size"]) if entry["type"] == "file" else None
        except (FileNotFoundError, NotADirectoryError):
            return None

    def sizes(self, folder: str) -> dict[str, int]:
        """The sizes in bytes of the regular files in `folder` by name, from one listing; empty if there is none."""
        with self.reading(folder), suppress(FileNotFoundError, NotADirectoryError):
            if self.folder:
                return {f"{folder}/{name}": size for name, size in _local_sizes(self.folder / folder)}
            self.fs.invalidate_cache()
            listing = self.fs.ls(f"{self.root}/{folder}", detail=True)
            files = [entry for entry in listing if entry["type"] == "file" and entry["size"] is not None]
            return {f"{folder}/{entry['name'].rpartition('/')[2]}": int(entry["size"]) for entry in files}
        return {}

    def names(self, folder: str, suffix: str) -> list[str]:
        """The files in `folder` that end in `suffix`, sorted; empty if there is no such folder."""
        return sorted(name for name in self.sizes(folder) if name.endswith(suffix))

    @contextmanager
    def reading(self, name: str) -> Iterator[None]:
        """Turn the errors of filesystems into NbenchErrors about `name`, except that there is no such file."""
        try:
            yield
        except (FileNotFoundError, NotADirectoryError):
            raise
        except Exception as error:  # every filesystem of fsspec raises its own types
            raise NbenchError(f"cannot read {self.url}/{name}: {reason_of(error)}") from None


def is_inside(path: Path, folder: Path) -> bool:
    """Whether `path` is `folder`, or in it; see `is_same`."""
    resolved = Path(os.path.realpath(path))
    return any(is_same(place, folder) for place in (resolved, *resolved.parents))


def is_same(path: Path, other: Path) -> bool:
    """Whether both are there and one file or folder, by whatever links, mounts or spelling."""
    try:
        return path.samefile(other)
    except OSError:
        return False


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _local_sizes(folder: Path) -> Iterator[tuple[str, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # a temporary file, renamed meanwhile
                if entry.is_file():
                    yield entry.name, entry.stat().st_size
