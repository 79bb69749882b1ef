"""Several processes that share a batch: embeddings gathered with their gradients."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import distributed


def share() -> tuple[int, int]:
    """The number of this process and of all, as torchrun states them."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def local_rank() -> int:
    """The number of this process on its machine, and of its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0))


class _Gather(torch.autograd.Function):
    """All processes' rows in order. Backward sums the gradients that all have for this process's rows."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.contiguous()
        distributed.all_reduce(gradient)
        return gradient.chunk(distributed.get_world_size())[distributed.get_rank()]


def gathered(rows: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """The rows of all processes, which have `counts` of them, in order; just `rows` if there is one process.

    Every process then computes the loss of the whole batch. Averaged over processes, as DistributedDataParallel does,
    the gradients are those of that loss in one process.
    """
    if len(counts) == 1:
        return rows
    most = max(counts)
    padded = torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])])
    parts = _Gather.apply(padded).split(most)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
