"""The finished shards of a score table that is being made: a table and, for a dual encoder, embeddings per shard."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ...errors import NbenchError
from ...jobs.run import clear
from ...jobs.store import LocalStore
from ...shards.atomic import commit, temporary, writing_to
from ...shards.scores import read_scores, scores_metadata, write_scores


@dataclass(frozen=True)
class Parts:
    """The parts in a hidden folder; a key tells what a part scores."""

    folder: Path

    def has(self, shard: int, key: dict[str, Any]) -> bool:
        """Whether the shard has a part with this key."""
        try:
            return scores_metadata(read_scores(self._table(shard))) == key
        except NbenchError:
            return False

    def write(self, shard: int, table: pa.Table, key: dict[str, Any]) -> None:
        """Write the part of a shard."""
        write_scores(self._table(shard), table, key)

    def read(self, shard: int) -> pa.Table:
        """The scores of a shard."""
        return read_scores(self._table(shard))

    def write_embeddings(self, shard: int, positions: Sequence[int], by_position: dict[int, list[np.ndarray]]) -> None:
        """Write the embeddings of a shard, float32 [K, B, D]; before its part, which says that all is there."""
        path = self._embeddings(shard)
        stacked = [np.concatenate(by_position[position]) for position in positions if position in by_position]
        with writing_to(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary(path).open("wb") as file:
                np.save(file, np.stack(stacked) if stacked else np.empty((len(positions), 0, 0), np.float32))
            commit(path)

    def embeddings(self, shard: int) -> np.ndarray:
        """The embeddings of a shard, float32 [K, B, D], mapped from disk."""
        embeddings: np.ndarray = np.load(self._embeddings(shard), mmap_mode="r")
        return embeddings

    def files(self, shard: int) -> list[Path]:
        """The files of a shard, its table last."""
        return [path for path in (self._embeddings(shard), self._table(shard)) if path.exists()]

    def all_files(self) -> list[Path]:
        """The files of all shards."""
        return [path for kind in ("parquet", "npy") for path in self.folder.glob(f"*.{kind}")]

    def remove(self) -> None:
        """Remove them, with the records of the job that made them."""
        clear(LocalStore(self.folder))
        shutil.rmtree(self.folder, ignore_errors=True)

    def _table(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}.parquet"

    def _embeddings(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}.npy"
