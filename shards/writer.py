"""The base of all shard writers: a shard is written whole or not at all."""

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
    """Takes the rows of shard `index` in order; the file appears in `folder` at `commit`, not before.

    The file's bytes depend only on the rows, not on how they were batched.
    """

    def __init__(self, folder: Path, info: DatasetInfo, index: int) -> None:
        self.info, self.index = info, index
        self._relative = info.shard_path(index)
        self._path = folder / self._relative
        self._rows = 0
        self._path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, batch: TrajectoryBatch) -> None:
        """Append trajectories."""
        self.write_rows(to_arrow(batch, self.info))

    def write_rows(self, rows: pa.RecordBatch) -> None:
        """Append trajectories as Arrow rows of `arrow_schema`."""
        with atomic.writing_to(self._path):
            self._append(rows)
        self._rows += rows.num_rows

    def write_all(
        self, batches: Iterable[pa.RecordBatch], progress: Callable[[int], None] | None = None
    ) -> ShardRecord:
        """Append all rows and commit; on any error the unfinished file is removed.

        Args:
            progress: called with the number of rows just written.
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
        """Make the file durable under its name; its record."""
        with atomic.writing_to(self._path):
            self._finish()
            with atomic.temporary(self._path).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                size = file.tell()
            atomic.commit(self._path)
        return ShardRecord(self._relative, self._rows, size, digest)

    def discard(self) -> None:
        """Remove the unfinished file."""
        with suppress(OSError):  # closing may fail on a full disk; the file is removed anyway
            self._close()
        atomic.temporary(self._path).unlink(missing_ok=True)

    @abstractmethod
    def _append(self, rows: pa.RecordBatch) -> None:
        """Append rows."""

    @abstractmethod
    def _finish(self) -> None:
        """Write the remaining rows and close."""

    @abstractmethod
    def _close(self) -> None:
        """Close the file as it is."""
