"""Makes the rows of shards: batch after batch, one being written while the next is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch

from ..pipelines.generate import Trajectories
from ..progress import BuildProgress
from ..shards.reader import Bench
from ..shards.rows import to_arrow
from ..shards.schema import DatasetInfo, ShardRecord, arrow_schema
from ..shards.signals import activations_of
from ..shards.writer import ShardWriter
from .candidates import Candidates, Plan
from .out_of_memory import OUT_OF_MEMORY, halved_note, unless_out_of_memory

if TYPE_CHECKING:
    from .process import LoadedProcess

_READ_ROWS = 64


@dataclass
class Maker:
    """A loaded process at work on a build. `batch_size` halves for good when a batch does not fit."""

    plan: Plan
    process: LoadedProcess
    info: DatasetInfo
    batch_size: int
    progress: BuildProgress

    def shard(self, index: int, writer: ShardWriter, pool: ThreadPoolExecutor) -> ShardRecord:
        """Make shard `index`. Batches begin anew with it, so that its content depends on nothing before it."""
        made = self._made(self.info.shard_rows(index))
        return self._write((partial(self._take, writer, now, batch) for now, batch in made), writer, pool)

    def failed_again(self, bench: Bench, index: int, writer: ShardWriter, pool: ThreadPoolExecutor) -> ShardRecord:
        """Make the failed rows of shard `index` of `bench` once more; the others stay as they are."""
        rows = self._mended(bench, index)
        return self._write((partial(writer.write_rows, row) for row in rows), writer, pool)

    def _take(self, writer: ShardWriter, candidates: Candidates, made: Trajectories) -> None:
        writer.write(self.plan.batch(candidates, made))

    def _made(self, rows: Sequence[int]) -> Iterator[tuple[Candidates, Trajectories]]:
        """`rows`, in batches, with what became of them; one that cannot be made says why."""
        start = 0
        while start < len(rows):
            now = self.plan.candidates([self.info.cell(row) for row in rows[start : start + self.batch_size]])
            made = self._generate(now)
            if made is None:
                continue  # in smaller batches
            start += len(now.cells)
            self.progress.advance(len(now.cells))
            yield now, made

    def _generate(self, candidates: Candidates) -> Trajectories | None:
        """None where the batch did not fit and the batch size has been halved."""
        info, count = self.info, len(candidates.cells)
        made = unless_out_of_memory(lambda: self.process.make(candidates, info.stored, info.signals))
        if made is not None:
            return made
        if count > 1:
            self.batch_size = max(1, count // 2)
            self.progress.say(halved_note(count, self.batch_size))
            return None
        return _nothing(info)

    def _mended(self, bench: Bench, index: int) -> Iterator[pa.RecordBatch]:
        number = self.info.shard_rows(index).start
        for rows in bench.shard_rows(index, arrow_schema(self.info).names, _READ_ROWS):
            failed = [number + i for i, status in enumerate(rows["status"].to_pylist()) if status != "ok"]
            made = {row: self._arrow(row) for row in failed}
            kept = (made.get(number + i, rows.slice(i, 1)) for i in range(len(rows)))
            yield from (row.cast(arrow_schema(self.info)) for row in kept)
            number += len(rows)

    def _arrow(self, row: int) -> pa.RecordBatch:
        ((candidates, made),) = self._made([row])
        return to_arrow(self.plan.batch(candidates, made), self.info)

    def _write(
        self, batches: Iterator[Callable[[], None]], writer: ShardWriter, pool: ThreadPoolExecutor
    ) -> ShardRecord:
        """Run what writes each batch in `pool`, encoding included: one is written while the next is made."""
        writing: Future[None] | None = None
        try:
            for write in batches:
                if writing is not None:
                    writing.result()  # no more than one waits, or a slow disk would fill the memory
                writing = pool.submit(write)
            if writing is not None:
                writing.result()
            return writer.commit()
        except BaseException:
            if writing is not None:
                writing.exception()
            writer.discard()
            raise


def _nothing(info: DatasetInfo) -> Trajectories:
    """One candidate that failed for want of memory."""
    latent, before = torch.zeros(1, *info.latent_shape), [k for k in info.stored if k < info.steps]
    return Trajectories(
        dict.fromkeys(info.stored, latent),
        np.zeros((1, *info.image_size, 3), np.uint8),
        [],
        (OUT_OF_MEMORY,),
        dict.fromkeys(before, latent) if "x0" in info.signals else {},
        torch.zeros(1, info.steps) if "cfg_gap" in info.signals else None,
        {each.layer: dict.fromkeys(before, torch.zeros(1, each.width or 0)) for each in activations_of(info.signals)},
    )
