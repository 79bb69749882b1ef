"""A finished data set of trajectories, read batch by batch: only the columns asked for leave the disk."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from ..errors import NbenchError
from .dataset import intact, read_info
from .positions import describe_positions, parse_positions
from .schema import DatasetInfo, Tags, TrajectoryBatch, latent_column

_NAMES = ["prompt_id", "prompt", "candidate", "seed", "tags", "corruptions", "status"]


class BenchPrompt(NamedTuple):
    """A prompt of a bench, with the skills it asks for."""

    prompt_id: str
    prompt: str
    tags: Tags | None


@dataclass(frozen=True)
class Bench:
    """A complete data set of trajectories at `path`."""

    info: DatasetInfo
    path: Path

    @cached_property
    def prompts(self) -> list[BenchPrompt]:
        """The prompts in order, each once."""
        found: dict[str, BenchPrompt] = {}
        for batch in self._read(["prompt_id", "prompt", "tags"], 4096):
            for row in batch.to_pylist():
                found.setdefault(row["prompt_id"], BenchPrompt(**row))
        return list(found.values())

    @cached_property
    def n_failed(self) -> int:
        """How many candidates failed and have no latents."""
        return sum(_count_failed(batch) for batch in self._read(["status"], 65536))

    def select(self, text: str) -> tuple[int, ...]:
        """The positions that `text` names (see `parse_positions`); `all` are those stored.

        Raises:
            NbenchError: not understood, or not stored.
        """
        positions = self.info.stored if text.strip() == "all" else parse_positions(text, self.info.steps)
        self.require(positions)
        return positions

    def require(self, positions: Sequence[int]) -> None:
        """Make sure that all `positions` are stored.

        Raises:
            NbenchError: naming those that are not, and those that are.
        """
        absent = [position for position in positions if position not in self.info.stored]
        if absent:
            has = describe_positions(self.info.stored)
            raise NbenchError(f"latents {', '.join(map(str, absent))} not in this bench: it has {has}")

    def batches(
        self, positions: Sequence[int] = (), images: bool = False, batch_size: int = 256
    ) -> Iterator[TrajectoryBatch]:
        """The candidates that succeeded, in order, at most `batch_size` at a time.

        Raises:
            NbenchError: a position that is not stored.
        """
        self.require(positions)
        columns = [*_NAMES, *map(latent_column, positions), *(["image"] if images else [])]
        for batch in self._read(columns, batch_size):
            yield self._from_arrow(batch, positions, images)

    def _read(self, columns: list[str], batch_size: int) -> Iterator[pa.RecordBatch]:
        for record in self.info.shards:
            assert record is not None  # open_bench lets no half-built data set pass
            with pq.ParquetFile(self.path / record.path) as file:
                yield from file.iter_batches(batch_size, columns=columns)

    def _from_arrow(self, batch: pa.RecordBatch, positions: Sequence[int], images: bool) -> TrajectoryBatch:
        failed = _count_failed(batch)
        if failed:
            batch = batch.filter(pc.equal(batch["status"], "ok"))
        shape = (batch.num_rows, *self.info.latent_shape)
        names = {name: batch[name].to_pylist() for name in _NAMES}
        columns = {position: batch[latent_column(position)].flatten() for position in positions}
        return TrajectoryBatch(
            prompt_ids=names["prompt_id"],
            prompts=names["prompt"],
            candidates=names["candidate"],
            seeds=names["seed"],
            tags=names["tags"],
            corruptions=names["corruptions"],
            errors=[""] * batch.num_rows,
            latents={k: column.to_numpy(zero_copy_only=False).reshape(shape) for k, column in columns.items()},
            images=_decode(batch["image"], self.info.image_size) if images else None,
            failed=failed,
        )


def open_bench(path: str | Path) -> Bench:
    """Open the data set at `path` for reading.

    Raises:
        NbenchError: nothing there, damaged, half built, or a shard is gone or of another size than recorded.
    """
    path = Path(path)
    info = read_info(path)
    if not info.complete:
        done = len(info.shards) - info.shards.count(None)
        raise NbenchError(
            f"{path} is half built ({done} of {len(info.shards)} shards): "
            "run the same `nbench build` command again to finish it"
        )
    for record in info.shards:
        if record and not intact(path, record):
            raise NbenchError(
                f"shard {path / record.path} is missing or cut short: run the same `nbench build` command to mend it"
            )
    return Bench(info, path)


def _count_failed(batch: pa.RecordBatch) -> int:
    return int(pc.sum(pc.not_equal(batch["status"], "ok"), min_count=0).as_py())


def _decode(column: pa.Array, size: tuple[int, int]) -> np.ndarray:
    images = [np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for png in column.field("bytes").to_pylist()]
    return np.stack(images) if images else np.empty((0, *size, 3), np.uint8)
