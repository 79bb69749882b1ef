"""Many prompts as a sequence that is on disk, not in memory: a driver reads those of a unit when it gives it out."""

from __future__ import annotations

import json
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import islice
from typing import BinaryIO, overload

from .rows import Prompt

_IN_MEMORY = 50_000
"""Most prompts that are a list."""


def kept(prompts: Iterable[Prompt]) -> Sequence[Prompt]:
    """The prompts as a list, or many of them in a temporary file, with 8 bytes of memory each."""
    coming = iter(prompts)
    first = list(islice(coming, _IN_MEMORY))
    following = next(coming, None)
    if following is None:
        return first
    file, places = tempfile.TemporaryFile(), array("Q")  # noqa: SIM115  # closed with the sequence
    for group in (first, (following,), coming):
        for prompt in group:
            places.append(file.tell())
            file.write(json.dumps(asdict(prompt)).encode() + b"\n")
    return _Spilled(file, places)


class _Spilled(Sequence[Prompt]):
    def __init__(self, file: BinaryIO, places: array[int]) -> None:
        self._file, self._places = file, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, at: int) -> Prompt: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[Prompt]: ...

    def __getitem__(self, at: int | slice) -> Prompt | Sequence[Prompt]:
        if isinstance(at, slice):
            return _Spilled(self._file, self._places[at])
        self._file.seek(self._places[at])
        return Prompt(**json.loads(self._file.readline()))
