"""Makes the rows of shards: batch after batch through the pipeline, one being written while the next is made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ..shards.reader import Bench
from ..shards.rows import to_arrow
from ..shards.schema import DatasetInfo, ShardRecord, TrajectoryBatch, arrow_schema
from ..shards.writer import ShardWriter
from .generate import Trajectories, generate
from .plan import Plan
from .progress import BuildProgress

OUT_OF_MEMORY = "out of memory"
_READ_ROWS = 64


@dataclass
class Maker:
    """A loaded pipeline at work on a build. `batch_size` halves for good when it does not fit into memory."""

    plan: Plan
    pipe: Any
    info: DatasetInfo
    batch_size: int
    progress: BuildProgress

    def shard(self, index: int, writer: ShardWriter, pool: ThreadPoolExecutor) -> ShardRecord:
        """Make shard `index`. Batches begin anew with it, so that its content depends on nothing before it."""
        return self._write(self.batches(self.info.shard_rows(index)), writer, pool)

    def failed_again(self, bench: Bench, index: int, writer: ShardWriter, pool: ThreadPoolExecutor) -> ShardRecord:
        """Make the failed rows of shard `index` of `bench` once more; the others stay as they are."""
        return self._write(self._mended(bench, index), writer, pool)

    def batches(self, rows: Sequence[int]) -> Iterator[TrajectoryBatch]:
        """The trajectories of `rows`, in batches; one that cannot be made says why."""
        start = 0
        while start < len(rows):
            now = rows[start : start + self.batch_size]
            texts, seeds = [prompt.text for prompt in self.plan.of(now)], self.plan.seeds(now)
            made = self._generate(texts, seeds)
            if made is None:
                continue  # in smaller batches
            start += len(now)
            self.progress.advance(len(now))
            yield self.plan.batch(now, made)

    def _generate(self, texts: Sequence[str], seeds: Sequence[int]) -> Trajectories | None:
        """None where the batch did not fit and the batch size has been halved."""
        try:
            return generate(self.pipe, texts, seeds, self.info.stored, self.plan.arguments)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "can't allocate memory" not in str(
                error
            ):
                raise
        # out of the except clause, which keeps the frames and all that is in them alive
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(seeds) > 1:
            self.batch_size = max(1, len(seeds) // 2)
            self.progress.say(f"{OUT_OF_MEMORY} with {len(seeds)} images at a time: going on with {self.batch_size}")
            return None
        nothing = torch.zeros(1, *self.info.latent_shape)
        images = np.zeros((1, *self.info.image_size, 3), np.uint8)
        return Trajectories(dict.fromkeys(self.info.stored, nothing), images, [], (OUT_OF_MEMORY,))

    def _mended(self, bench: Bench, index: int) -> Iterator[pa.RecordBatch]:
        number = self.info.shard_rows(index).start
        for rows in bench.shard_rows(index, arrow_schema(self.info).names, _READ_ROWS):
            failed = [number + i for i, status in enumerate(rows["status"].to_pylist()) if status != "ok"]
            made = {row: to_arrow(batch, self.info) for row in failed for batch in self.batches([row])}
            kept = (made.get(number + i, rows.slice(i, 1)) for i in range(len(rows)))
            yield from (row.cast(arrow_schema(self.info)) for row in kept)
            number += len(rows)

    def _write(
        self, batches: Iterator[TrajectoryBatch | pa.RecordBatch], writer: ShardWriter, pool: ThreadPoolExecutor
    ) -> ShardRecord:
        writing: Future[None] | None = None
        try:
            for batch in batches:
                if writing is not None:
                    writing.result()  # one batch is written while the next is made, and no more are kept
                take = writer.write if isinstance(batch, TrajectoryBatch) else writer.write_rows
                writing = pool.submit(take, batch)
            if writing is not None:
                writing.result()
            return writer.commit()
        except BaseException:
            if writing is not None:
                writing.exception()
            writer.discard()
            raise
