"""Makes the rows of shards batch by batch, and writes one batch while the next is made."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch

from ..jobs.job import Context
from ..pipelines.generate import Trajectories
from ..shards.reader import Bench
from ..shards.row_columns import arrow_schema
from ..shards.rows import to_arrow
from ..shards.schema import DatasetInfo, ShardRecord
from ..shards.signals import activations_of, estimates_of
from ..shards.writer import ShardWriter
from .candidates import Candidates, Plan
from .out_of_memory import OUT_OF_MEMORY, halved_note, unless_out_of_memory

if TYPE_CHECKING:
    from .process import LoadedProcess

_READ_ROWS = 64


@dataclass
class Maker:
    """Makes the shards of a build with a loaded process. `batch_size` is halved for good when a batch does not fit."""

    plan: Plan
    process: LoadedProcess
    info: DatasetInfo
    batch_size: int
    progress: Context

    def shard(self, index: int, writer: ShardWriter, pool: ThreadPoolExecutor) -> ShardRecord:
        """Make shard `index`. A shard starts a new batch, so that its content depends on nothing before it."""
        batches = self._batches(self.info.shard_rows(index))
        return self._write((partial(self._take, writer, *batch) for batch in batches), writer, pool)

    def failed_again(self, bench: Bench, index: int, writer: ShardWriter, pool: ThreadPoolExecutor) -> ShardRecord:
        """Retry the failed rows of shard `index` of `bench`; the others stay as they are."""
        rows = self._with_retries(bench, index)
        return self._write((partial(writer.write_rows, row) for row in rows), writer, pool)

    def _take(self, writer: ShardWriter, candidates: Candidates, trajectories: Trajectories) -> None:
        writer.write(self.plan.batch(candidates, trajectories))

    def _batches(self, rows: Sequence[int]) -> Iterator[tuple[Candidates, Trajectories]]:
        """The candidates of `rows` in batches, with their trajectories; a failed one has its error."""
        start = 0
        while start < len(rows):
            candidates = self.plan.candidates([self.info.cell(row) for row in rows[start : start + self.batch_size]])
            trajectories = self._generate(candidates)
            if trajectories is None:
                continue  # in smaller batches
            start += len(candidates.cells)
            yield candidates, trajectories

    def _generate(self, candidates: Candidates) -> Trajectories | None:
        """The trajectories; None if the batch did not fit, and the batch size has been halved."""
        info, count = self.info, len(candidates.cells)
        steps = _Steps(count, self.progress)
        trajectories = unless_out_of_memory(
            lambda: self.process.make(candidates, info.stored, info.signals, steps.done)
        )
        if trajectories is not None:
            steps.end(count)
            return trajectories
        steps.end(count if count == 1 else 0)
        if count > 1:
            self.batch_size = max(1, count // 2)
            self.progress.say(halved_note(count, self.batch_size))
            return None
        return _nothing(info)

    def _with_retries(self, bench: Bench, index: int) -> Iterator[pa.RecordBatch]:
        number = self.info.shard_rows(index).start
        for rows in bench.shard_rows(index, arrow_schema(self.info).names, _READ_ROWS):
            failed = [number + i for i, status in enumerate(rows["status"].to_pylist()) if status != "ok"]
            retried = {row: self._arrow(row) for row in failed}
            merged = (retried.get(number + i, rows.slice(i, 1)) for i in range(len(rows)))
            yield from (row.cast(arrow_schema(self.info)) for row in merged)
            number += len(rows)

    def _arrow(self, row: int) -> pa.RecordBatch:
        (batch,) = self._batches([row])
        return to_arrow(self.plan.batch(*batch), self.info)

    def _write(
        self, batches: Iterator[Callable[[], None]], writer: ShardWriter, pool: ThreadPoolExecutor
    ) -> ShardRecord:
        """Run the writes in `pool`, encoding included: one batch is written while the next is made."""
        writing: Future[None] | None = None
        try:
            for write in batches:
                if writing is not None:
                    writing.result()  # at most one waits, so that a slow disk does not fill the memory
                writing = pool.submit(write)
            if writing is not None:
                writing.result()
            return writer.commit()
        except BaseException:
            if writing is not None:
                writing.exception()
            writer.discard()
            raise


class _Steps:
    """Counts the rows of a batch by their denoising steps, and tells at most once a second; tells what steps take."""

    def __init__(self, rows: int, progress: Context) -> None:
        self._rows, self._progress = rows, progress
        self._made = self._told = 0.0
        self._last = time.monotonic()
        self._before: float | None = None

    def done(self, share: float) -> None:
        """A step of all rows, a `share` of their runs, is done."""
        self._made += share * self._rows
        now = time.monotonic()
        if self._before is not None:
            self._progress.step((now - self._before) / self._rows)
        self._before = now
        if now - self._last > 1:
            self.end(min(self._made, self._rows))

    def end(self, rows: float) -> None:
        """So many rows are made in all."""
        self._progress.advance(rows - self._told)
        self._told, self._last = rows, time.monotonic()


def _nothing(info: DatasetInfo) -> Trajectories:
    """One candidate that failed for lack of memory."""
    latent, before = torch.zeros(1, *info.latent_shape), [k for k in info.stored if k < info.steps]
    return Trajectories(
        dict.fromkeys(info.stored, latent),
        np.zeros((1, *info.image_size, 3), np.uint8),
        [],
        (OUT_OF_MEMORY,),
        dict.fromkeys(before, latent) if "x0" in info.signals else {},
        torch.zeros(1, info.steps) if "cfg_gap" in info.signals else None,
        {each.key: dict.fromkeys(before, torch.zeros(1, each.width or 0)) for each in activations_of(info.signals)},
        {signal: dict.fromkeys(before, latent) for signal in estimates_of(info.signals) if signal != "x0"},
    )
