"""Trajectories to Parquet: the write side, behind an interface that other formats can take."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from . import atomic
from .schema import DatasetInfo, ShardRecord, TrajectoryBatch, arrow_schema, latent_column

ROW_GROUP_BYTES = 64 * 2**20


class ShardWriter(Protocol):
    """Takes one shard's trajectories in order, batch by batch, and makes them a file at `commit`, never before."""

    def write(self, batch: TrajectoryBatch) -> None:
        """Take the next trajectories."""
        ...

    def commit(self) -> ShardRecord:
        """Make the shard durable under its name."""
        ...

    def discard(self) -> None:
        """Leave nothing behind."""
        ...


class ParquetShardWriter:
    """Shard `index` as Parquet: a row a trajectory, a column a position.

    Latents are byte-stream-split, which brings the exponents of float16 together, then zstd-compressed. Row groups
    are bounded by bytes and do not depend on the batches written, so neither do the shard's bytes.
    """

    def __init__(self, folder: Path, info: DatasetInfo, index: int) -> None:
        self._relative = info.shard_path(index)
        self._path = folder / self._relative
        self._info = info
        self._schema = arrow_schema(info)
        self._group_rows = max(1, ROW_GROUP_BYTES // (2 * int(np.prod(info.latent_shape)) * len(info.positions)))
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0
        latents = [f"{latent_column(position)}.list.element" for position in info.stored]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = pq.ParquetWriter(
            atomic.temporary(self._path),
            self._schema,
            compression="zstd",
            use_dictionary=["prompt_id", "prompt", "status"],
            column_encoding=dict.fromkeys(latents, "BYTE_STREAM_SPLIT"),
            write_statistics=["id", "prompt_id", "candidate", "seed", "status"],
        )

    def write(self, batch: TrajectoryBatch) -> None:
        """Take the next trajectories; full row groups go to disk at once."""
        self._waiting.append(to_arrow(batch, self._info, self._schema))
        self._rows += len(batch)
        while sum(map(len, self._waiting)) >= self._group_rows:
            self._flush(self._group_rows)

    def commit(self) -> ShardRecord:
        """Write what is left, make the file durable, and say what it is."""
        self._flush(self._group_rows)
        self._writer.close()
        with atomic.temporary(self._path).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
        atomic.commit(self._path)
        return ShardRecord(self._relative, self._rows, size, digest)

    def discard(self) -> None:
        """Remove the unfinished file."""
        self._writer.close()
        atomic.temporary(self._path).unlink(missing_ok=True)

    def _flush(self, rows: int) -> None:
        table = pa.Table.from_batches(self._waiting, self._schema)
        if table.num_rows:
            self._writer.write_table(table.slice(0, rows).combine_chunks(), row_group_size=rows)
        self._waiting = table.slice(rows).to_batches()


def to_arrow(batch: TrajectoryBatch, info: DatasetInfo, schema: pa.Schema) -> pa.RecordBatch:
    """One Arrow row a trajectory; failed ones have neither latents nor image."""
    failed = np.array([bool(error) for error in batch.errors])
    images = [None] * len(batch) if batch.images is None else batch.images
    columns = {
        "id": [f"{prompt}/{candidate}" for prompt, candidate in zip(batch.prompt_ids, batch.candidates, strict=True)],
        "prompt_id": batch.prompt_ids,
        "prompt": batch.prompts,
        "candidate": batch.candidates,
        "seed": batch.seeds,
        "tags": batch.tags,
        "corruptions": batch.corruptions,
        "image": [None if bad else {"bytes": _png(image)} for bad, image in zip(failed, images, strict=True)],
        "status": np.where(failed, "failed", "ok").tolist(),
        "error": [error or None for error in batch.errors],
    }
    arrays = [pa.array(values, schema.field(name).type) for name, values in columns.items()]
    for position in info.stored:
        values = pa.array(np.ascontiguousarray(batch.latents[position], np.float16).reshape(-1))
        size = int(np.prod(info.latent_shape))
        arrays.append(pa.FixedSizeListArray.from_arrays(values, size, mask=pa.array(failed)))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _png(image: np.ndarray | None) -> bytes | None:
    if image is None:
        return None
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return buffer.getvalue()
