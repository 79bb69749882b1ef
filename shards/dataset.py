"""A data set folder: dataset.json, shards committed one by one, and a lock held while building."""

from __future__ import annotations

import difflib
import itertools
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import NbenchError, reason_of
from ..jobs.records import Records
from ..jobs.store import LocalStore, Store
from .atomic import atomic_write, writing_to
from .features import FEATURES_FILE, write_features
from .lock import locked
from .schema import SUFFIXES, DatasetInfo, ShardRecord
from .storage import Location

INFO_FILE = "dataset.json"


def read_info(where: Location | Path) -> DatasetInfo:
    """Read the dataset.json of a data set, and while it is built the records of its finished shards.

    Raises:
        NbenchError: there is none, or it is damaged.
    """
    location = where if isinstance(where, Location) else Location.of(where)
    try:
        info = DatasetInfo.from_json(location.read(INFO_FILE), f"{location.url}/{INFO_FILE}")
    except (FileNotFoundError, NotADirectoryError):
        raise NbenchError(
            f"no bench at {location.url}{_near(location)}: it has no {INFO_FILE}; build one with `nbench build`"
        ) from None
    return info if info.complete or location.folder is None else _with_records(info, LocalStore(location.folder))


def _with_records(info: DatasetInfo, store: Store) -> DatasetInfo:
    """`info` with the shards that are finished and have a record of their own."""
    records = Records(store, info.fingerprint)
    made = {index: ShardRecord(**record.result) for index, record in records.read(records.done()).items()}
    return replace(info, shards=tuple(record or made.get(index) for index, record in enumerate(info.shards)))


def _near(location: Location) -> str:
    """A hint at the data set here whose folder has nearly the name of one that is not there."""
    if location.folder is None:
        return ""
    folders = [
        info.parent for place in (location.folder.parent, Path("data"), Path()) for info in place.glob(f"*/{INFO_FILE}")
    ]
    near = difflib.get_close_matches(location.folder.name, [folder.name for folder in folders], 1)
    return next((f" (did you mean {folder}?)" for folder in folders if [folder.name] == near), "")


def intact(location: Location, record: ShardRecord | None) -> bool:
    """Whether a shard is committed and its file still has the recorded size."""
    return record is not None and location.size(record.path) == record.bytes


class DatasetFolder:
    """A data set being built. As a context manager it holds the folder's lock, for work that one process does alone.

    Raises (on entering):
        NbenchError: the folder cannot be written, or another process is building in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._info: DatasetInfo | None = None
        self._held = ExitStack()

    def __enter__(self) -> DatasetFolder:
        busy = f"another build is writing to {self.path}: wait for it or choose another --out"
        try:
            self._held.enter_context(locked(self.path, busy))
        except OSError as error:
            raise self._unwritable(error) from None
        try:
            self.check_writable()
        except NbenchError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._held.close()

    def check_writable(self) -> None:
        """Make the folder, and check that files can be written there.

        Raises:
            NbenchError: they cannot.
        """
        try:
            (self.path / "data").mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> NbenchError:
        return NbenchError(f"cannot write to {self.path} ({reason_of(error)}): choose another --out")

    @property
    def started(self) -> bool:
        """Whether a build has begun here."""
        return (self.path / INFO_FILE).exists()

    @property
    def info(self) -> DatasetInfo:
        """The current record."""
        if self._info is None:
            self._info = read_info(self.path)
        return self._info

    def take_up(self, fingerprint: str, spec: dict[str, Any], fresh: bool = False) -> bool:
        """Whether a build of this data set exists here to resume; `fresh` removes what is here first.

        Raises:
            NbenchError: the folder holds another build.
        """
        if fresh and self.started:
            self.clear()
        if self.started:
            self.check(fingerprint, spec)
        return self.started

    def create(self, info: DatasetInfo) -> None:
        """Start a data set: write its record, which has no shards yet."""
        write_features(self.path, info)
        # saved as it will be read back: an int in a float field would change the bytes when the build is resumed
        self._save(DatasetInfo.from_json(info.to_json(), INFO_FILE))

    def extend(self, info: DatasetInfo) -> None:
        """Replace the record by one that has all shards of this one and more; existing shards stay as they are."""
        self._save(info)

    def check(self, fingerprint: str, spec: dict[str, Any]) -> None:
        """Refuse to resume a build with another fingerprint.

        Raises:
            NbenchError: the fingerprints differ; the message names the settings that do.
        """
        if fingerprint != self.info.fingerprint:
            self.check_same(spec, self.info.spec)
            raise NbenchError(f"{self.path} holds another build (dataset.json was edited): use --fresh")

    def check_same(self, spec: dict[str, Any], present: dict[str, Any]) -> None:
        """Refuse a build of `spec` where it differs from `present`, the spec of this folder.

        Raises:
            NbenchError: they differ; the message names the settings.
        """
        if differences := "; ".join(_differences(present, spec)):
            raise NbenchError(
                f"{self.path} holds another build ({differences}): repeat its settings, add prompts or candidates by "
                "--extend, use --fresh, or choose another --out"
            )

    def missing(self) -> list[int]:
        """The shards that are not committed, or whose file is missing or has another size."""
        location = Location.of(self.path)
        return [index for index, record in enumerate(self.info.shards) if not intact(location, record)]

    def commit_shard(self, index: int, record: ShardRecord) -> None:
        """Record that shard `index` is on disk."""
        shards = list(self.info.shards)
        shards[index] = record
        self._save(replace(self.info, shards=tuple(shards)))

    def drop_partial_scores(self) -> None:
        """Remove the unfinished score tables: they are invalid once rows change."""
        for parts in self.path.glob("scores/.*.parts"):
            shutil.rmtree(parts)

    def clear(self) -> None:
        """Remove what nbench wrote here, and nothing else: score tables, shards, then dataset.json."""
        self.drop_partial_scores()
        files = list(self.path.glob("scores/*.parquet"))
        for split, suffix in itertools.product(("test", "train"), SUFFIXES.values()):
            shard = f"{split}-*-of-*.{suffix}"
            files += [*self.path.glob(f"data/{shard}"), *self.path.glob(f"data/.{shard}.tmp")]
        for path in [*files, self.path / FEATURES_FILE, self.path / INFO_FILE]:
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
        digests = any(re.fullmatch(r"[0-9a-f]{16,}", str(value)) for value in (old, new))
        yield f"other {name}" if digests else f"{name} {_short(old)} there, {_short(new)} now"


def _short(value: object) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= 32 else f"{text[:29]}..."
