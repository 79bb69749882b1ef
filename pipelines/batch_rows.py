"""Cuts the arguments of a denoiser to some rows of its batch, and scatters its output back to all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import NbenchError

Path = tuple[Any, ...]
"""Where in a call's arguments something stands: number or name, then keys of what is nested."""
Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class BatchAxes:
    """Which axis of each tensor in a denoiser's arguments holds the batch, and which lists have an entry per row (0).

    `compared` names all tensors of which it is known whether they hold it. Where a call has one entry for all rows
    (Qwen-Image, of several images of one prompt), it stays.
    """

    axes: Mapping[Path, int]
    compared: frozenset[Path]

    def cut(self, call: Call, rows: Sequence[int], total: int) -> Call:
        """The arguments of a call of `total` rows, each cut to `rows`.

        Raises:
            NbenchError: an argument of which it cannot be told whether it holds the batch.
        """
        args, kwargs = call
        return tuple(self._cut((i,), value, rows, total) for i, value in enumerate(args)), {
            name: self._cut((name,), value, rows, total) for name, value in kwargs.items()
        }

    def _cut(self, path: Path, value: Any, rows: Sequence[int], total: int) -> Any:
        axis = self.axes.get(path)
        if isinstance(value, torch.Tensor):
            if axis is not None and value.ndim > axis and value.shape[axis] == total:
                # by an index tensor, which copies: the rows of a compiled module then lie as a batch of their own would
                return value.index_select(axis, torch.tensor(rows, device=value.device))
            if (axis is not None and value.shape[axis : axis + 1] != (1,)) or (
                path not in self.compared and total in value.shape
            ):
                raise _unclear(path)
            return value
        if isinstance(value, Mapping):
            return {name: self._cut((*path, name), item, rows, total) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            if axis is not None and len(value) == total:
                return type(value)(value[row] for row in rows)
            if axis is not None and len(value) != 1:
                raise _unclear(path)
            return type(value)(self._cut((*path, i), item, rows, total) for i, item in enumerate(value))
        return value


def batch_of(arguments: Sequence[Any]) -> int:
    """How many rows a denoiser is called with: the length of its first argument, which may be a list (Z-Image)."""
    return len(arguments[0])


def batch_axes(one: Call, other: Call) -> BatchAxes:
    """Where the batch is in a denoiser's arguments, as two calls show that differ in the number of their rows alone.

    So an axis that is as long as the batch by chance is none of it, and one that holds it may be any.

    Raises:
        NbenchError: an argument changes with the batch in another way.
    """
    totals = batch_of((*one[0], *one[1].values())), batch_of((*other[0], *other[1].values()))
    axes: dict[Path, int] = {}
    compared: set[Path] = set()
    items = [dict(enumerate(call[0])) | call[1] for call in (one, other)]
    for path, first, second in _pairs((), *items):
        if isinstance(first, torch.Tensor):
            compared.add(path)
            sizes = list(zip(first.shape, second.shape, strict=False))
            differing = [axis for axis, (here, there) in enumerate(sizes) if here != there]
            if first.ndim != second.ndim or len(differing) > 1 or any(sizes[axis] != totals for axis in differing):
                raise _unclear(path)
            if differing:
                axes[path] = differing[0]
        elif (len(first), len(second)) == totals:
            axes[path] = 0
        else:
            raise _unclear(path)
    return BatchAxes(axes, frozenset(compared))


def _pairs(path: Path, one: Any, other: Any) -> Iterator[tuple[Path, Any, Any]]:
    """The tensors of two calls, and the lists that are not equally long, wherever they are."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        yield path, one, other
    elif isinstance(one, Mapping) and isinstance(other, Mapping):
        for name in one.keys() & other.keys():
            yield from _pairs((*path, name), one[name], other[name])
    elif isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        if len(one) != len(other):
            yield path, one, other
            return
        for i, parts in enumerate(zip(one, other, strict=True)):
            yield from _pairs((*path, i), *parts)


def _unclear(path: Path) -> NbenchError:
    name = ".".join(map(str, path))
    return NbenchError(
        f"which rows of the denoiser's argument {name} belong to which candidate cannot be told: "
        "candidates of this pipeline cannot be stopped early"
    )


def rows_of(candidates: Sequence[int], batch: int, total: int) -> list[int]:
    """The rows of `candidates` of a batch of `batch` in a call of `total` rows: guidance repeats the batch whole.

    Raises:
        NbenchError: the rows are not the batch once or several times.
    """
    if total % batch:
        raise NbenchError(f"the denoiser is called with {total} rows for {batch} candidates: whose they are is unclear")
    return [part + candidate for part in range(0, total, batch) for candidate in candidates]


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


def taken(value: Any, rows: Sequence[int], total: int) -> Any:
    """`rows` of a denoiser's output of `total` rows."""
    if isinstance(value, torch.Tensor):
        if not value.ndim or len(value) != total:
            return value
        return value.index_select(0, torch.tensor(rows, device=value.device))
    if isinstance(value, Mapping):
        return type(value)(**{name: taken(item, rows, total) for name, item in value.items()})
    if isinstance(value, list) and len(value) == total:
        return [value[row] for row in rows]
    if isinstance(value, (list, tuple)):
        return type(value)(taken(item, rows, total) for item in value)
    return value


def placed(value: Any, rows: Sequence[int], whole: Any) -> Any:
    """A denoiser's output `whole` with `value`, as of `taken`, in `rows`."""
    if isinstance(value, torch.Tensor):
        if not value.ndim or len(value) != len(rows):
            return whole
        return whole.index_copy(0, torch.tensor(rows, device=value.device), value)
    if isinstance(value, Mapping):
        return type(value)(**{name: placed(item, rows, whole[name]) for name, item in value.items()})
    if isinstance(value, list) and len(value) == len(rows):
        place = dict(zip(rows, value, strict=True))
        return [place.get(row, item) for row, item in enumerate(whole)]
    if isinstance(value, (list, tuple)):
        return type(value)(placed(item, rows, part) for item, part in zip(value, whole, strict=True))
    return whole


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """All tensors of a denoiser's output, or of other nested values."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (Mapping, list, tuple)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from tensors_in(item)
