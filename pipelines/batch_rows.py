"""Cuts the arguments of a denoiser to some rows of its batch, and scatters its output back to all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..errors import NbenchError

_SHARED = frozenset({"img_ids", "txt_ids", "image_rotary_emb"})
"""Places of tokens, the same for every row: their first axis may happen to be as long as the batch."""


def batch_of(arguments: Sequence[Any]) -> tuple[int, bool]:
    """How many rows a denoiser is called with, and whether they come as a list (Z-Image): its first argument says."""
    first = arguments[0]
    return len(first), isinstance(first, (list, tuple))


def rows_of(candidates: Sequence[int], batch: int, total: int) -> list[int]:
    """The rows of `candidates` of a batch of `batch` in a call of `total` rows: guidance repeats the batch whole.

    Raises:
        NbenchError: the rows are not the batch once or several times.
    """
    if total % batch:
        raise NbenchError(f"the denoiser is called with {total} rows for {batch} candidates: whose they are is unclear")
    return [part + candidate for part in range(0, total, batch) for candidate in candidates]


def cut_call(
    args: tuple[Any, ...], kwargs: dict[str, Any], rows: Sequence[int], total: int, as_list: bool
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call of `total` rows, each cut to `rows`."""
    return tuple(cut(value, rows, total, as_list) for value in args), cut(kwargs, rows, total, as_list)


def cut(value: Any, rows: Sequence[int], total: int, as_list: bool) -> Any:
    """`value` with those of its tensors and lists that have an entry for each of `total` rows cut to `rows`."""
    if isinstance(value, torch.Tensor):
        # by an index tensor, which copies: the rows of a compiled module then lie as a batch of their own would
        return value[torch.tensor(rows, device=value.device)] if value.ndim and len(value) == total else value
    if isinstance(value, dict):
        return {name: item if name in _SHARED else cut(item, rows, total, as_list) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        # a list of tensors is a batch where the denoiser takes lists; elsewhere each tensor holds the batch
        if len(value) == total and (as_list or not any(isinstance(item, torch.Tensor) for item in value)):
            return type(value)(value[row] for row in rows)
        return type(value)(cut(item, rows, total, as_list) for item in value)
    return value


def scatter(value: Any, rows: Sequence[int], total: int) -> Any:
    """The inverse of `cut` for a denoiser's output: zeros in the rows that were not computed."""
    if isinstance(value, torch.Tensor):
        if not value.ndim or len(value) != len(rows):
            return value
        whole = value.new_zeros((total, *value.shape[1:]))
        whole[torch.tensor(rows, device=value.device)] = value
        return whole
    if isinstance(value, Mapping):  # a ModelOutput too
        return type(value)(**{name: scatter(item, rows, total) for name, item in value.items()})
    if isinstance(value, list) and len(value) == len(rows):
        place = dict(zip(rows, value, strict=True))
        return [place[row] if row in place else torch.zeros_like(value[0]) for row in range(total)]
    if isinstance(value, (list, tuple)):
        return type(value)(scatter(item, rows, total) for item in value)
    return value
