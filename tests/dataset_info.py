"""Small data sets for tests and timings: their description, with defaults, and their files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from nbench.shards.dataset import DatasetFolder
from nbench.shards.formats import shard_writer
from nbench.shards.schema import DatasetInfo, PositionInfo, ShardRecord, TrajectoryBatch


def dataset_info(
    *, n_prompts: int, candidates: int, steps: int, rows_per_shard: int, stored: Iterable[int], **fields: Any
) -> DatasetInfo:
    """A data set without shards; stored: its positions, without timesteps and sigmas; fields: those that differ."""
    rows = n_prompts * candidates
    defaults: dict[str, Any] = {
        "format_version": 1,
        "name": "noisy-genai-bench",
        "split": "test",
        "fingerprint": "f" * 8,
        "spec": {"pipeline": {"name": "unknown", "content": ""}},
        "latent_shape": (4, 16, 16),
        "format": "parquet",
        "latent_dtype": "float16",
        "image_size": (32, 32),
        "steps": steps,
        "candidates": candidates,
        "n_prompts": n_prompts,
        "rows": rows,
        "rows_per_shard": rows_per_shard,
        "positions": tuple(PositionInfo(k, None, None, 1.0) for k in stored),
        "preview": None,
        "shards": (None,) * -(-rows // rows_per_shard),
    }
    return DatasetInfo(**defaults | fields)


def build(path: Path, info: DatasetInfo, batches: Callable[[range], list[TrajectoryBatch]]) -> Path:
    """Write a data set; `batches` returns the batches of a shard for its row numbers."""
    folder = DatasetFolder(path)
    folder.create(info)
    for index in missing(folder):
        writer = shard_writer(path, info, index)
        for batch in batches(info.shard_rows(index)):
            writer.write(batch)
        commit_shard(folder, index, writer.commit())
    return path


def commit_shard(folder: DatasetFolder, index: int, record: ShardRecord) -> None:
    """Put the record of a shard that is written in its place into dataset.json."""
    shards = list(folder.info.shards)
    shards[index] = record
    folder.extend(replace(folder.info, shards=tuple(shards)))


def missing(folder: DatasetFolder) -> list[int]:
    """The shards without a record."""
    return [index for index, record in enumerate(folder.info.shards) if record is None]
