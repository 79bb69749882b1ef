"""The order in which a data set is read: shuffled or not, split among readers, resumed."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa

from ..errors import NbenchError
from .schema import DatasetInfo

WINDOW_BYTES = 256 * 2**20
"""Limit on the bytes of requested numbers in shards that are shuffled together (at least one shard)."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Order:
    """A pass over a data set, or one reader's part of it.

    shuffle: a seed, None for the order on disk. epoch: each epoch has another order. part, parts: this reader's number
    and the number of readers (ranks x workers); each reads other whole shards. skip: rows of this part that were
    already read, failed ones included; resumes an interrupted pass.
    """

    shuffle: int | None = None
    epoch: int = 0
    part: int = 0
    parts: int = 1
    skip: int = 0

    def shards(self, info: DatasetInfo) -> list[int]:
        """The shard numbers of this part, in order.

        Raises:
            NbenchError: more readers than shards, or no such part.
        """
        count = len(info.shards)
        if not 0 <= self.part < self.parts:
            raise NbenchError(f"no part {self.part} of {self.parts}: parts are numbered from 0")
        if self.parts > max(count, 1):
            raise NbenchError(
                f"{count} shards cannot be split among {self.parts} readers: use fewer, or make smaller shards with "
                "`nbench convert --rows-per-shard`"
            )
        order = np.arange(count) if self.shuffle is None else self._rng().permutation(count)
        return [int(index) for index in order[self.part :: self.parts]]

    def rows(
        self,
        info: DatasetInfo,
        row_bytes: int,
        batch_size: int,
        read: Callable[[int], Iterator[pa.RecordBatch]],
    ) -> Iterator[pa.RecordBatch]:
        """The rows of this part in batches of at most `batch_size`.

        Args:
            row_bytes: bytes of the numbers read per row.
            read: yields the rows of a shard.
        """
        if self.shuffle is None:
            yield from self._as_stored(info, read)
        else:
            yield from self._shuffled(info, row_bytes, batch_size, read)

    def _as_stored(
        self, info: DatasetInfo, read: Callable[[int], Iterator[pa.RecordBatch]]
    ) -> Iterator[pa.RecordBatch]:
        skip = self.skip
        for index in self.shards(info):
            if skip >= len(info.shard_rows(index)):
                skip -= len(info.shard_rows(index))
                continue
            for rows in read(index):
                if skip < len(rows):
                    yield rows.slice(skip)
                skip = max(0, skip - len(rows))

    def _shuffled(
        self, info: DatasetInfo, row_bytes: int, batch_size: int, read: Callable[[int], Iterator[pa.RecordBatch]]
    ) -> Iterator[pa.RecordBatch]:
        """Shards in random order, rows shuffled within a window of shards: memory does not grow with the data."""
        together, skip = max(1, WINDOW_BYTES // max(1, row_bytes * info.rows_per_shard)), self.skip
        shards, waiting = self.shards(info), list[pa.RecordBatch]()
        for start in range(0, len(shards), together):
            window = shards[start : start + together]
            count = sum(len(info.shard_rows(index)) for index in window)
            if skip >= count and not waiting:
                skip -= count
                continue
            table = pa.Table.from_batches([rows for index in window for rows in read(index)])
            mixed = table.take(self._rng(start + 1).permutation(len(table))).slice(skip)
            skip = 0
            waiting += mixed.to_batches()
            last = start + together >= len(shards)
            joined = pa.Table.from_batches(waiting).combine_chunks()
            whole = len(joined) if last else len(joined) // batch_size * batch_size
            for first in range(0, whole, batch_size):
                yield from joined.slice(first, min(batch_size, whole - first)).to_batches()
            waiting = joined.slice(whole).to_batches()

    def _rng(self, *more: int) -> np.random.Generator:
        return np.random.default_rng([self.shuffle or 0, self.epoch, *more])


AS_STORED = Order()


def prefetch(items: Iterator[Item], depth: int) -> Iterator[Item]:
    """`items`, produced by a thread at most `depth` ahead; its exceptions are raised here."""
    ready: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(depth)
    stop = threading.Event()

    def put(item: Item | None, error: BaseException | None = None) -> None:
        while not stop.is_set():
            with suppress(queue.Full):
                ready.put((item, error), timeout=0.1)
                return

    def work() -> None:
        try:
            for item in items:
                put(item)
                if stop.is_set():
                    return
            put(None, StopIteration())
        except BaseException as error:
            put(None, error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]  # None only comes with an error
    finally:
        stop.set()
        thread.join()
