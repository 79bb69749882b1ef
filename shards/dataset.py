"""A data set folder: dataset.json, shards committed one by one, and a lock while someone builds."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import NbenchError, reason_of
from .atomic import atomic_write, temporary, writing_to
from .lock import locked
from .schema import SUFFIXES, DatasetInfo, ShardRecord
from .storage import Location

INFO_FILE = "dataset.json"


def read_info(where: Location | Path) -> DatasetInfo:
    """What the dataset.json of a data set says.

    Raises:
        NbenchError: there is none, or it is damaged.
    """
    location = where if isinstance(where, Location) else Location.of(where)
    try:
        return DatasetInfo.from_json(location.read(INFO_FILE), f"{location.url}/{INFO_FILE}")
    except (FileNotFoundError, NotADirectoryError):
        raise NbenchError(f"no bench at {location.url}: it has no {INFO_FILE}; build one with `nbench build`") from None


def intact(location: Location, record: ShardRecord | None) -> bool:
    """Whether a shard is committed and still there in its whole size."""
    return record is not None and location.size(record.path) == record.bytes


class DatasetFolder:
    """A data set that is being built. As a context manager it holds the folder's lock.

    Raises (on entering):
        NbenchError: the folder cannot be written, or somebody else is building in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._info: DatasetInfo | None = None
        self._held = ExitStack()

    def __enter__(self) -> DatasetFolder:
        try:
            (self.path / "data").mkdir(parents=True, exist_ok=True)
            taken = f"another build is writing to {self.path}: wait for it or choose another --out"
            self._held.enter_context(locked(self.path, taken))
            probe = temporary(self.path / INFO_FILE)
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            self.__exit__()
            raise NbenchError(f"cannot write to {self.path} ({reason_of(error)}): choose another --out") from None
        return self

    def __exit__(self, *exception: object) -> None:
        self._held.close()

    @property
    def started(self) -> bool:
        """Whether a build has begun here."""
        return (self.path / INFO_FILE).exists()

    @property
    def info(self) -> DatasetInfo:
        """The record as it now stands."""
        if self._info is None:
            self._info = read_info(self.path)
        return self._info

    def take_up(self, fingerprint: str, spec: dict[str, Any], fresh: bool = False) -> bool:
        """Whether this very data set was begun here; what is here is removed first if `fresh`.

        Raises:
            NbenchError: another data set was begun here.
        """
        if fresh and self.started:
            self.clear()
        if self.started:
            self.check(fingerprint, spec)
        return self.started

    def create(self, info: DatasetInfo) -> None:
        """Begin: write the record of a data set that has no shards yet."""
        # as it will be read back, or numbers given as int would change their bytes when a build is resumed
        self._save(DatasetInfo.from_json(info.to_json(), INFO_FILE))

    def extend(self, info: DatasetInfo) -> None:
        """Go on with the record of a data set that has all shards of this one, and further ones; none is touched."""
        self._save(info)

    def check(self, fingerprint: str, spec: dict[str, Any]) -> None:
        """Make sure that what is here is the beginning of the same data set.

        Raises:
            NbenchError: another fingerprint; the message names what differs.
        """
        if fingerprint != self.info.fingerprint:
            self.check_same(spec, self.info.spec)
            raise NbenchError(f"{self.path} holds another build (dataset.json was edited): use --fresh")

    def check_same(self, spec: dict[str, Any], present: dict[str, Any]) -> None:
        """Make sure that a build of `spec` is one of `present`, what is here.

        Raises:
            NbenchError: naming what differs.
        """
        if differences := "; ".join(_differences(present, spec)):
            raise NbenchError(
                f"{self.path} holds another build ({differences}): repeat its settings, add prompts or candidates by "
                "--extend, use --fresh, or choose another --out"
            )

    def missing(self) -> list[int]:
        """The shards not yet committed, or no longer what was committed."""
        location = Location.of(self.path)
        return [index for index, record in enumerate(self.info.shards) if not intact(location, record)]

    def commit_shard(self, index: int, record: ShardRecord) -> None:
        """Record that shard `index` is on disk."""
        shards = list(self.info.shards)
        shards[index] = record
        self._save(replace(self.info, shards=tuple(shards)))

    def drop_scores(self) -> None:
        """Remove the score tables, whole or in parts, which a change of the rows makes untrue."""
        for path in self.path.glob("scores/*.parquet"):
            path.unlink()
        for parts in self.path.glob("scores/.*.parts"):
            shutil.rmtree(parts)

    def clear(self) -> None:
        """Remove what nbench made here: score tables, shards, then dataset.json; nothing else."""
        self.drop_scores()
        made: list[Path] = []
        for split, suffix in itertools.product(("test", "train"), SUFFIXES.values()):
            shard = f"{split}-*-of-*.{suffix}"
            made += [*self.path.glob(f"data/{shard}"), *self.path.glob(f"data/.{shard}.tmp")]
        for path in [*made, self.path / INFO_FILE]:
            path.unlink(missing_ok=True)
        self._info = None

    def _save(self, info: DatasetInfo) -> None:
        with writing_to(self.path / INFO_FILE):
            atomic_write(self.path / INFO_FILE, info.to_json())
        self._info = info


def _differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}".lstrip("."))
    elif old != new:
        yield f"{name} {_short(old)} there, {_short(new)} now"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 32 else f"{text[:29]}..."
