"""A data set folder: dataset.json, the records of shards that are made, and what nbench removes there."""

from __future__ import annotations

import difflib
import re
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from uuid import uuid4

from ..errors import NbenchError, reason_of
from ..jobs.places import store_at
from ..jobs.records import Records
from ..jobs.store import LocalStore, Store
from ..options import RECIPE_FILE, Place
from .features import FEATURES_FILE, features_file
from .positions import describe_positions
from .schema import SUFFIXES, DatasetInfo, ShardRecord
from .storage import Location

INFO_FILE = "dataset.json"


def read_info(where: Location | Place) -> DatasetInfo:
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
    return info if info.complete or not location.writable else _with_records(info, store_at(location.url))


def _near(location: Location) -> str:
    """A hint at the data set here whose folder has nearly the name of one that is not there."""
    if location.folder is None:
        return ""
    folders = [
        info.parent for place in (Path("data"), Path(), location.folder.parent) for info in place.glob(f"*/{INFO_FILE}")
    ]
    near = difflib.get_close_matches(location.folder.name, [folder.name for folder in folders], 1)
    return next((f" (did you mean {folder}?)" for folder in folders if [folder.name] == near), "")


def _with_records(info: DatasetInfo, store: Store) -> DatasetInfo:
    """`info` with the shards that are finished and have a record of their own."""
    records = Records(store, info.fingerprint)
    made = {index: ShardRecord(**record.result) for index, record in records.read(records.done()).items()}
    return replace(info, shards=tuple(record or made.get(index) for index, record in enumerate(info.shards)))


def intact(location: Location, record: ShardRecord | None) -> bool:
    """Whether a shard is committed and its file still has the recorded size."""
    return record is not None and location.size(record.path) == record.bytes


class DatasetFolder:
    """A data set being built, in a folder or at a URL, whose files and records are in `store`."""

    def __init__(self, place: Place) -> None:
        self.place, self.store = place, store_at(place)
        self._folder = self.store.root if isinstance(self.store, LocalStore) else None
        self._info: DatasetInfo | None = None

    def check_writable(self) -> None:
        """Make the folder, and check that files can be written there.

        Raises:
            NbenchError: they cannot.
        """
        if self._folder is None:
            name = f"probe/{uuid4().hex}"
            self.store.write(name, b"")
            self.store.remove([name])
            return
        try:
            (self._folder / "data").mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._folder):
                pass
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> NbenchError:
        return NbenchError(f"cannot write to {self.place} ({reason_of(error)}): choose another --out")

    @property
    def path(self) -> Path:
        """The local folder.

        Raises:
            NbenchError: it is not on this machine.
        """
        if self._folder is None:
            raise NbenchError(f"{self.place} is not on this machine: give a folder")
        return self._folder

    @property
    def started(self) -> bool:
        """Whether a build has begun here."""
        return self.store.read(INFO_FILE) is not None

    @property
    def info(self) -> DatasetInfo:
        """The current record."""
        if self._info is None:
            self._info = read_info(Location.of(self.place, hub_ids=False))
        return self._info

    def create(self, info: DatasetInfo) -> None:
        """Start a data set unless somebody else has just done so: write its record, which has no shards yet."""
        if features := features_file(info):
            self.store.write(FEATURES_FILE, features)
        # saved as it will be read back: an int in a float field would change the bytes when the build is resumed
        self.store.create(INFO_FILE, DatasetInfo.from_json(info.to_json(), INFO_FILE).to_json())
        self._info = None

    def extend(self, info: DatasetInfo) -> None:
        """Replace the record by one that has all shards of this one and more; existing shards stay as they are."""
        self.store.write(INFO_FILE, info.to_json())
        self._info = info

    def check(self, fingerprint: str, spec: dict[str, Any]) -> None:
        """Refuse to resume a build with another fingerprint.

        Raises:
            NbenchError: the fingerprints differ; the message names the settings that do.
        """
        if fingerprint != self.info.fingerprint:
            self.check_same(spec, self.info.spec)
            raise NbenchError(f"{self.place} holds another build (dataset.json was edited): use --fresh")

    def check_same(self, spec: dict[str, Any], present: dict[str, Any]) -> None:
        """Refuse a build of `spec` where it differs from `present`, the spec of this folder.

        Raises:
            NbenchError: they differ; the message names the settings.
        """
        if differences := "; ".join(_differences(present, spec)):
            raise NbenchError(
                f"{self.place} holds another build ({differences}): repeat its settings, add prompts or candidates by "
                "--extend, use --fresh, or choose another --out"
            )

    def drop_partial_scores(self) -> None:
        """Remove the unfinished score tables: they are invalid once rows change."""
        for parts in {name.rpartition("/")[0] for name in self.store.list("scores") if ".parts/" in name}:
            self.store.remove_folder(parts)

    def clear(self) -> None:
        """Remove what nbench wrote here, and nothing else: score tables, shards, then dataset.json."""
        self.drop_partial_scores()
        shards = [f"data/{split}-*-of-*.{suffix}" for split in ("test", "train") for suffix in SUFFIXES.values()]
        names, patterns = [*self.store.list("scores"), *self.store.list("data")], ["scores/*.parquet", *shards]
        self.store.remove([name for name in names if any(fnmatch(name, pattern) for pattern in patterns)])
        self.store.remove([FEATURES_FILE, RECIPE_FILE, INFO_FILE])
        self._info = None


def _differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}".lstrip("."))
    elif old != new:
        digests = any(re.fullmatch(r"[0-9a-f]{16,}", str(value)) for value in (old, new))
        yield f"other {name.removesuffix('.sha256')}" if digests else f"{name} {_short(old)} there, {_short(new)} now"


def _short(value: object) -> str:
    text = "not set" if value is None else str(value)
    if isinstance(value, list) and all(isinstance(item, int) for item in value):
        text = describe_positions(value)
    return text if len(text) <= 32 else f"{text[:29]}..."
