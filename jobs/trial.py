"""A job of small files that cost nothing, to try engines, stores and faults with."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .job import Context, Unit
from .records import Record
from .store import Store

_BEGUN = "begun.json"


@dataclass(frozen=True)
class TrialJob:
    """`count` units, each a file of a few bytes, made in one step of `seconds`; unit `bad` always fails.

    Units of an `empty` job leave no file.
    """

    store: Store
    count: int
    seconds: float = 0.0
    bad: int | None = None
    empty: bool = False
    key: str = "trial"
    title: str = "trial"

    def open(self, context: Context) -> TrialMaker:
        """Nothing to load."""
        return TrialMaker(self, context)

    def begun(self) -> bool:
        """Whether a worker has written the first file."""
        return self.store.read(_BEGUN) is not None

    def units(self) -> Collection[int]:
        """The numbers of the files."""
        return range(self.count)

    def made_before(self) -> Collection[int]:
        """None."""
        return ()

    def damaged(self, records: Mapping[int, Record]) -> dict[int, str]:
        """The files that are not there."""
        files = self.store.list("data")
        return {index: self.name(index) for index in records if not self.empty and self.name(index) not in files}

    def rows(self, index: int) -> int:
        """One."""
        return 1

    def payload(self, index: int) -> Any:
        """Nothing."""
        return None

    @staticmethod
    def name(index: int) -> str:
        """The name of a unit's file."""
        return f"data/{index // 1000}/{index}"

    @staticmethod
    def content(index: int) -> bytes:
        """The content of a unit's file."""
        return b"%d" % index


@dataclass(frozen=True)
class TrialMaker:
    """Makes the files."""

    job: TrialJob
    context: Context

    def begin(self, payload: Any) -> None:
        """Write the first file."""
        self.job.store.create(_BEGUN, b"{}")

    def make(self, index: int, payload: Any, folder: Path) -> Unit:
        """Write a file slowly."""
        if self.job.seconds:
            time.sleep(self.job.seconds)
        if index == self.job.bad:
            raise ValueError(f"unit {index} is bad")
        if self.job.empty:
            return Unit({}, {})
        content = self.job.content(index)
        (folder / "unit").write_bytes(content)
        self.context.advance(1)
        self.context.step(self.job.seconds)
        sha256 = hashlib.sha256(content).hexdigest()
        return Unit({self.job.name(index): (folder / "unit", sha256)}, {"bytes": len(content), "sha256": sha256})

    def close(self) -> None:
        """Nothing is open."""
