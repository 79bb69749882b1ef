"""The finished shards of a score table that is being made: a table and, for a dual encoder, embeddings per shard."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ...errors import NbenchError
from ...jobs.places import store_at
from ...jobs.run import clear
from ...jobs.store import LocalStore, Store
from ...options import Place
from ...shards.scores import read_scores, scores_metadata, write_scores

_TABLE, _EMBEDDINGS = "parquet", "npy"


def write_part(
    folder: Path,
    shard: int,
    table: pa.Table,
    key: dict[str, Any],
    positions: Sequence[int],
    embeddings: dict[int, list[np.ndarray]] | None,
) -> list[Path]:
    """Write the scores of a shard, with the key that tells what they score, and embeddings, float32 [K, B, D].

    The files; the table, which says that all is there, is the last.
    """
    paths = []
    if embeddings is not None:
        stacked = [np.concatenate(embeddings[position]) for position in positions if position in embeddings]
        paths.append(folder / _name(shard, _EMBEDDINGS))
        np.save(paths[-1], np.stack(stacked) if stacked else np.empty((len(positions), 0, 0), np.float32))
    paths.append(folder / _name(shard, _TABLE))
    write_scores(paths[-1], table, key)
    return paths


@dataclass(frozen=True)
class Parts:
    """The parts in a store of their own, a hidden folder beside the table."""

    store: Store

    @classmethod
    def of(cls, place: Place) -> Parts:
        """Those at `place`."""
        return cls(store_at(place))

    def done(self, shards: Collection[int], key: dict[str, Any]) -> list[int]:
        """The shards that have a part with this key."""
        wanted = {_name(shard, _TABLE): shard for shard in shards}
        present = [name for name in self.names() if name in wanted]
        return sorted(wanted[name] for name, content in self.store.read_all(present) if _key(content) == key)

    def read(self, shard: int) -> pa.Table:
        """The scores of a shard.

        Raises:
            NbenchError: there are none.
        """
        return _table(self.store.read(_name(shard, _TABLE)), f"{self.store.url}/{_name(shard, _TABLE)}")

    def embeddings(self, shard: int) -> np.ndarray:
        """The embeddings of a shard, float32 [K, B, D]; of a local folder mapped from disk."""
        name = _name(shard, _EMBEDDINGS)
        if isinstance(self.store, LocalStore):
            mapped: np.ndarray = np.load(self.store.root / name, mmap_mode="r")
            return mapped
        loaded: np.ndarray = np.load(io.BytesIO(self.store.read(name) or b""))
        return loaded

    def names(self) -> set[str]:
        """The files of all shards."""
        return {name for name in self.store.list("") if "/" not in name and name.endswith((_TABLE, _EMBEDDINGS))}

    @staticmethod
    def names_of(shard: int) -> set[str]:
        """The files that a shard may have."""
        return {_name(shard, kind) for kind in (_TABLE, _EMBEDDINGS)}

    def remove(self) -> None:
        """Remove them, with the records of the job that made them."""
        clear(self.store)
        self.store.remove_folder("")


def _name(shard: int, kind: str) -> str:
    return f"{shard:05d}.{kind}"


def _table(content: bytes | None, origin: str) -> pa.Table:
    if content is None:
        raise NbenchError(f"no scores at {origin}: run the same command")
    return read_scores(content, origin)


def _key(content: bytes | None) -> dict[str, Any] | None:
    try:
        return scores_metadata(_table(content, ""))
    except NbenchError:
        return None
