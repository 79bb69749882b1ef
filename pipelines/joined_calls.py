"""Runs calls of one module as one batch where that gives what each call gives alone."""

from __future__ import annotations

import hashlib
import inspect
import math
import threading
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from .batch_rows import BatchAxes, Call, Path, batch_of, tensors_in
from .calling import is_out_of_memory
from .padded_batch import padded

MISFIT = "shapes or arguments differ"
INEXACT = "the module computes rows of a joined batch otherwise"
FAILED = "the joined batch failed"


@dataclass(frozen=True)
class Rows:
    """A call of a module with `axes`, the places of the batch in its arguments."""

    call: Call
    axes: BatchAxes

    def __len__(self) -> int:
        return batch_of((*self.call[0], *self.call[1].values()))


class JoinedCalls:
    """Runs calls of `module`, those of a kind in one batch of at most `most_rows` rows; several threads may.

    Each row keeps its own timestep. Arguments without a batch axis must be equal; a timestep of the whole call is
    repeated for each of its rows. When calls of a kind first meet, they are run both alone and joined. Unless the
    results agree up to rounding, calls of this kind are joined only at equal timesteps (checked likewise), or never.

    Attributes:
        calls: calls answered.
        batches: runs of the module that answered them, without those that only checked.
        rows: rows of these runs.
        alone: calls that ran alone although others were waiting, by reason.
    """

    def __init__(self, module: torch.nn.Module, most_rows: int | None = None, compiled: bool = False) -> None:
        self.calls, self.batches, self.rows = 0, 0, 0
        self.alone: Counter[str] = Counter()
        self._module, self._most, self._compiled = module, most_rows or 1 << 62, compiled
        inner: torch.nn.Module = getattr(module, "_orig_mod", module)
        self._names = list(inspect.signature(type(inner).forward).parameters)[1:]
        self._exact: dict[tuple[Hashable, bool], bool] = {}
        self._digests: Any = WeakTensorKeyDictionary()
        self._counting = threading.Lock()

    def run(self, kind: Hashable, calls: Sequence[Rows], misfit: bool = False) -> list[Any]:
        """The output of each call of a `kind`, or the exception that it raised; `misfit`: calls of others wait."""
        waiting, outputs = dict(enumerate(calls)), dict[int, Any]()
        if self._exact.get((kind, True), True):
            for part in self._parts(waiting):
                outputs |= self._joined(kind, part, MISFIT if misfit and len(waiting) == 1 else None)
        else:
            by_time: defaultdict[Hashable, dict[int, Rows]] = defaultdict(dict)
            for number, rows in waiting.items():
                by_time[self._time(rows)][number] = rows
            for same in by_time.values():
                for part in self._parts(same):
                    outputs |= self._joined(kind, part, INEXACT if len(same) == 1 else None)
        with self._counting:
            self.calls += len(waiting)
        return [outputs[number] for number in waiting]

    def _parts(self, waiting: Mapping[int, Rows]) -> Iterator[dict[int, Rows]]:
        """The calls in parts of at most `most_rows` rows; one that is larger runs as it is."""
        part: dict[int, Rows] = {}
        for number, rows in waiting.items():
            if part and sum(map(len, part.values())) + len(rows) > self._most:
                yield part
                part = {}
            part[number] = rows
        yield part

    def _joined(self, kind: Hashable, part: Mapping[int, Rows], reason: str | None) -> dict[int, Any]:
        waiting = list(part.values())
        if len(part) == 1:
            if reason:
                self._count_alone(reason, 1)
            return dict(zip(part, self._each(waiting), strict=True))
        mixed = self._exact.get((kind, True), False) or len(set(map(self._time, waiting))) > 1
        exact = self._exact.get((kind, mixed))
        if exact is None:
            outputs = self._each(waiting)
            if all(not isinstance(output, Exception) and _is_finite(output) for output in outputs):
                self._exact[kind, mixed] = _agree(outputs, self._together(waiting))
            return dict(zip(part, outputs, strict=True))
        if exact and (together := self._together(waiting)) is not None:
            self._count(sum(map(len, waiting)))
            return dict(zip(part, together, strict=True))
        self._count_alone(FAILED if exact else INEXACT, len(part))
        return dict(zip(part, self._each(waiting), strict=True))

    def _each(self, waiting: Sequence[Rows]) -> list[Any]:
        """Run every call by itself; an exception is the call's output."""
        outputs: list[Any] = []
        for rows in waiting:
            args, kwargs = rows.call
            self._count(len(rows))
            try:
                outputs.append(self._module(*args, **kwargs))
            except Exception as error:
                outputs.append(error)
        return outputs

    def _together(self, waiting: Sequence[Rows]) -> list[Any] | None:
        """The outputs of calls run as one; None if that fails, so that each call shows whether it is to blame."""
        counts, calls = [len(rows) for rows in waiting], [rows.call for rows in waiting]
        axes = waiting[0].axes
        if self._compiled:  # fill up with copies of the first rows, so that few sizes are compiled
            missing = padded(sum(counts), self._most) - sum(counts)
            while missing > 0:
                some = min(missing, counts[0])
                calls.append(axes.cut(calls[0], range(some), counts[0]) if some < counts[0] else calls[0])
                counts.append(some)
                missing -= some
        args = tuple(self._join(axes, (i,), [call[0][i] for call in calls], counts) for i in range(len(calls[0][0])))
        kwargs = {name: self._join(axes, (name,), [call[1][name] for call in calls], counts) for name in calls[0][1]}
        try:
            return _split(self._module(*args, **kwargs), counts)[: len(waiting)]
        except Exception as error:
            if is_out_of_memory(error):
                self._most = max(1, sum(counts) // 2)
            return None

    def _count(self, rows: int) -> None:
        with self._counting:
            self.batches, self.rows = self.batches + 1, self.rows + rows

    def _count_alone(self, reason: str, calls: int) -> None:
        with self._counting:
            self.alone[reason] += calls

    def _is_time(self, path: Path, value: torch.Tensor) -> bool:
        """Whether an argument is the timestep of a whole call."""
        name = path[0] if isinstance(path[0], str) else self._names[path[0]] if path[0] < len(self._names) else ""
        return len(path) == 1 and name.startswith("timestep") and value.numel() == 1

    def _time(self, rows: Rows) -> Hashable:
        """The values of all timesteps of a call."""
        args, kwargs = rows.call
        named = [*zip(self._names, args, strict=False), *kwargs.items()]
        return tuple(
            (name, tuple(sorted(set(value.flatten().tolist()))))
            for name, value in named
            if isinstance(value, torch.Tensor) and (name == "t" or name.startswith("timestep"))
        )

    def kind(self, rows: Rows) -> Hashable:
        """Calls of equal kind may be joined: equal shapes beside the batch, all else equal but for the timestep."""
        args, kwargs = rows.call
        items = [((i,), value) for i, value in enumerate(args)] + [((name,), kwargs[name]) for name in sorted(kwargs)]
        return tuple((path, self._kind_of(rows.axes, path, value, len(rows))) for path, value in items)

    def _kind_of(self, axes: BatchAxes, path: Path, value: Any, rows: int) -> Hashable:
        axis = axes.axes.get(path)
        if isinstance(value, torch.Tensor):
            about = value.dtype, value.device
            if axis is not None and value.ndim > axis and value.shape[axis] in (1, rows):
                return "rows", *about, tuple(value.shape[:axis]), tuple(value.shape[axis + 1 :])
            return ("time", *about) if self._is_time(path, value) else ("same", *about, self._digest(value))
        if isinstance(value, Mapping):
            return tuple((name, self._kind_of(axes, (*path, name), value[name], rows)) for name in sorted(value))
        if isinstance(value, (list, tuple)):
            if axis is not None and len(value) in (1, rows):
                return "list", frozenset(self._entry(item) for item in value)
            return tuple(self._kind_of(axes, (*path, i), item, rows) for i, item in enumerate(value))
        return value if value is None or isinstance(value, (bool, int, float, str)) else ("own", id(value))

    def _entry(self, item: Any) -> Hashable:
        return (item.dtype, item.device, tuple(item.shape)) if isinstance(item, torch.Tensor) else repr(item)

    def _digest(self, tensor: torch.Tensor) -> Hashable:
        """Shape and hash of a tensor's values, computed once: reading them would wait for the GPU at each step."""
        version = -1 if tensor.is_inference() else tensor._version
        cached = self._digests.get(tensor)
        if cached is None or cached[0] != version:
            values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
            cached = self._digests[tensor] = (version, (tuple(tensor.shape), hashlib.sha256(values).digest()))
        return cached[1]

    def _join(self, axes: BatchAxes, path: Path, values: Sequence[Any], counts: Sequence[int]) -> Any:
        first, axis, pairs = values[0], axes.axes.get(path), list(zip(values, counts, strict=True))
        if isinstance(first, torch.Tensor):
            if axis is not None and first.ndim > axis and first.shape[axis] in (1, counts[0]):
                # one entry for all rows of a call is repeated for each
                return torch.cat([value.expand(*_sizes(value, axis, count)) for value, count in pairs], axis)
            if self._is_time(path, first):
                return torch.cat([value.reshape(1).expand(count) for value, count in pairs])
            return first
        if isinstance(first, Mapping):
            return {name: self._join(axes, (*path, name), [value[name] for value in values], counts) for name in first}
        if isinstance(first, (list, tuple)):
            if axis is not None and len(first) in (1, counts[0]):
                return type(first)(item for value, count in pairs for item in (value * (count // len(value))))
            return type(first)(
                self._join(axes, (*path, i), [value[i] for value in values], counts) for i in range(len(first))
            )
        return first


def _sizes(value: torch.Tensor, axis: int, count: int) -> list[int]:
    return [count if i == axis else size for i, size in enumerate(value.shape)]


def _split(output: Any, counts: Sequence[int]) -> list[Any]:
    """The part of each call in the output of a joined one."""
    total = sum(counts)
    if isinstance(output, torch.Tensor):
        return list(output.split(list(counts))) if output.ndim and len(output) == total else [output] * len(counts)
    if isinstance(output, Mapping):  # a ModelOutput too
        parts = {name: _split(item, counts) for name, item in output.items()}
        return [type(output)(**{name: part[i] for name, part in parts.items()}) for i in range(len(counts))]
    if isinstance(output, list) and len(output) == total:
        ends = [sum(counts[: i + 1]) for i in range(len(counts))]
        return [output[end - count : end] for end, count in zip(ends, counts, strict=True)]
    if isinstance(output, (list, tuple)):
        items = [_split(item, counts) for item in output]
        return [type(output)(item[i] for item in items) for i in range(len(counts))]
    return [output] * len(counts)


def _agree(alone: Sequence[Any], together: Sequence[Any] | None) -> bool:
    """Whether all tensors agree up to rounding: by the square root of their dtype's precision, of the largest value."""
    if together is None:
        return False
    for one, other in zip(tensors_in(alone), tensors_in(together), strict=True):
        if one.shape != other.shape:
            return False
        if one.is_floating_point() and one.numel():
            scale = float(one.abs().max())
            if not float((one - other).abs().max()) <= math.sqrt(torch.finfo(one.dtype).eps) * scale:
                return False
    return True


def _is_finite(output: Any) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors_in(output))
