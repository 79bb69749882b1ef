"""Shards are written whole or not at all: what the writers of all formats share."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from . import atomic
from .rows import to_arrow
from .schema import DatasetInfo, ShardRecord, TrajectoryBatch


class ShardWriter(ABC):
    """Takes the rows of shard `index` in order and makes them a file of `folder` at `commit`, never before.

    The file's bytes depend on the rows alone, not on how they were batched.
    """

    def __init__(self, folder: Path, info: DatasetInfo, index: int) -> None:
        self.info, self.index = info, index
        self._relative = info.shard_path(index)
        self._path = folder / self._relative
        self._rows = 0
        self._path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, batch: TrajectoryBatch) -> None:
        """Take the next trajectories."""
        self.write_rows(to_arrow(batch, self.info))

    def write_rows(self, rows: pa.RecordBatch) -> None:
        """Take the next trajectories, as Arrow rows of `arrow_schema`."""
        with atomic.writing_to(self._path):
            self._append(rows)
        self._rows += rows.num_rows

    def write_all(
        self, batches: Iterable[pa.RecordBatch], progress: Callable[[int], None] | None = None
    ) -> ShardRecord:
        """Take all rows and commit; whatever goes wrong, nothing is left behind.

        Args:
            progress: told how many rows have just been written.
        """
        try:
            for rows in batches:
                self.write_rows(rows)
                if progress:
                    progress(len(rows))
            return self.commit()
        except BaseException:
            self.discard()
            raise

    def commit(self) -> ShardRecord:
        """Make the file durable under its name, and say what it is."""
        with atomic.writing_to(self._path):
            self._finish()
            with atomic.temporary(self._path).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                size = file.tell()
            atomic.commit(self._path)
        return ShardRecord(self._relative, self._rows, size, digest)

    def discard(self) -> None:
        """Remove the unfinished file."""
        with suppress(OSError):  # what cannot be finished, for want of space, is to go anyway
            self._close()
        atomic.temporary(self._path).unlink(missing_ok=True)

    @abstractmethod
    def _append(self, rows: pa.RecordBatch) -> None:
        """Take rows."""

    @abstractmethod
    def _finish(self) -> None:
        """Write what is left, and close."""

    @abstractmethod
    def _close(self) -> None:
        """Let go of the file, as it is."""
