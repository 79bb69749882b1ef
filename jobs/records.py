"""The records of a job's finished units: one small file each, created once by the worker that made the unit."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from .store import Store

RECORDS, FAILURES = "records", "failures"
_PER_FOLDER = 1000


@dataclass(frozen=True)
class Record:
    """A unit that is finished, or that failed at every attempt.

    Attributes:
        key: the job's; records of another key belong to another job and do not count.
        result: what the unit left, as plain JSON: for a shard its path, rows, bytes and SHA-256.
        worker: who made it.
        seconds: that it took.
        attempts: that were needed.
        error: why the last attempt failed; "" for a finished unit.
    """

    key: str
    result: dict[str, Any] = field(default_factory=dict)
    worker: str = ""
    seconds: float = 0.0
    attempts: int = 1
    error: str = ""

    def to_json(self) -> bytes:
        """As one line of JSON."""
        return json.dumps(vars(self), ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, content: bytes) -> Record | None:
        """Read what `to_json` wrote; None if it is something else, such as what a power cut left."""
        try:
            return cls(**json.loads(content))
        except (ValueError, TypeError):
            return None


@dataclass(frozen=True)
class Records:
    """The records of the job `key` in a store."""

    store: Store
    key: str

    def done(self) -> dict[int, float]:
        """When each finished unit was recorded, by the store's clock; one listing, no file is read."""
        return _times(self.store, RECORDS)

    def failed(self) -> dict[int, float]:
        """When each failed unit was recorded."""
        return _times(self.store, FAILURES)

    def read(self, indices: Iterable[int], folder: str = RECORDS) -> dict[int, Record]:
        """The records of those units that have a valid one."""
        names = {_name(folder, index): index for index in indices}
        records = ((names[name], Record.from_json(content)) for name, content in self.store.read_all(names) if content)
        return {index: record for index, record in records if record is not None and record.key == self.key}

    def add(self, index: int, record: Record) -> bool:
        """Record a finished unit; False if somebody has recorded it already."""
        return self.store.create(_name(RECORDS, index), record.to_json())

    def has(self, index: int) -> bool:
        """Whether a unit is finished."""
        return self.store.read(_name(RECORDS, index)) is not None

    def fail(self, index: int, record: Record) -> None:
        """Record a unit that failed at every attempt; a later finished one counts instead."""
        self.store.write(_name(FAILURES, index), record.to_json())

    def forget(self, indices: Iterable[int], folder: str = RECORDS) -> None:
        """Remove the records of some units, so that they are made again."""
        self.store.remove([_name(folder, index) for index in indices])

    def sound(self, indices: Collection[int]) -> dict[int, Record]:
        """The valid records of `indices`; others, of another job or damaged by a power cut, are removed."""
        records = self.read(indices)
        self.forget(set(indices) - set(records))
        return records


def _name(folder: str, index: int) -> str:
    return f"{folder}/{index // _PER_FOLDER}/{index}.json"


def _times(store: Store, folder: str) -> dict[int, float]:
    """By unit, when its file was last changed."""
    files = store.list(folder).items()
    return {int(name.rpartition("/")[2].removesuffix(".json")): changed for name, (_, changed) in files}
