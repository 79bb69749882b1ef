"""A torch dataset of trajectories: sharded, shuffled, and resumable within an epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from ..options import Place
from ..shards.reader import Bench, open_bench
from ..shards.stream import Order


class TrajectoryDataset(IterableDataset[dict[str, Any]]):
    """Batches of the candidates that succeeded: {"prompts": B texts, "corruptions": B, "latents": {position: tensor
    [B, C, H, W] in the stored dtype}, "images": uint8 [B, H, W, 3], if requested}.

    It yields whole batches, so give `DataLoader` `batch_size=None`. Every rank and worker reads different shards.
    `state_dict` and `load_state_dict` resume within an epoch, as torchdata's StatefulDataLoader expects.

    Args:
        data: a data set, or its folder, URL or Hub id.
        shuffle: a seed, or None for the order on disk; `set_epoch` gives every epoch another order.
        rank, world_size: this process and the number of processes.
    """

    def __init__(
        self,
        data: Bench | Place,
        positions: Sequence[int],
        batch_size: int = 64,
        *,
        images: bool = False,
        shuffle: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.bench = data if isinstance(data, Bench) else open_bench(data)
        self.bench.require(positions)
        self._positions, self._batch_size, self._images = tuple(positions), batch_size, images
        self._rank, self._world_size = rank, world_size
        self._order = Order(shuffle=shuffle)

    def set_epoch(self, epoch: int) -> None:
        """Start the epoch `epoch`."""
        self._order = replace(self._order, epoch=epoch, skip=0)

    def state_dict(self) -> dict[str, int]:
        """The progress of this reader: its epoch, and the rows read in it."""
        return {"epoch": self._order.epoch, "rows": self._order.skip}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Resume from the state of a reader of the same part."""
        self._order = replace(self._order, epoch=state["epoch"], skip=state["rows"])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        number, count = (worker.id, worker.num_workers) if worker else (0, 1)
        part, parts = self._rank * count + number, self._world_size * count
        order = replace(self._order, part=part, parts=parts)
        for batch in self.bench.batches(self._positions, self._images, self._batch_size, order, ahead=2):
            self._order = replace(self._order, skip=self._order.skip + len(batch) + batch.failed)
            if len(batch):
                latents = {k: torch.from_numpy(array.copy()) for k, array in batch.latents.items()}
                fields = {"prompts": batch.prompts, "corruptions": batch.corruptions, "latents": latents}
                yield fields | ({} if batch.images is None else {"images": torch.from_numpy(batch.images)})
        self._order = replace(self._order, skip=0)
