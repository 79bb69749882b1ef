"""A block of memory that two processes share, in parts: one is filled while a scorer works on another."""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from typing import Any

import numpy as np
import torch

from .messages import input_array

SLOTS = 2
"""Parts of the memory."""
_ALIGNMENT = 4096


class SharedMemory:
    """A block of memory that processes share by its descriptor, in `SLOTS` parts; nothing of it is left behind."""

    def __init__(self) -> None:
        if hasattr(os, "memfd_create"):
            self.descriptor = os.memfd_create("nbench-scorer")
        else:
            with tempfile.TemporaryFile() as file:
                self.descriptor = os.dup(file.fileno())
        self._slot_bytes, self._numbers = 0, np.empty(0, np.uint8)
        weakref.finalize(self, os.close, self.descriptor)

    def reserve(self, size: int) -> None:
        """Make each slot hold `size` bytes; no request may be at work."""
        if size > self._slot_bytes:
            self._slot_bytes = -(-size // _ALIGNMENT) * _ALIGNMENT
            os.ftruncate(self.descriptor, SLOTS * self._slot_bytes)
            self._numbers = np.frombuffer(mmap.mmap(self.descriptor, SLOTS * self._slot_bytes), np.uint8)

    def put(self, inputs: torch.Tensor, slot: int) -> dict[str, Any]:
        """Copy inputs to a slot that holds them; returns their description."""
        values, described = input_array(inputs)
        start = slot * self._slot_bytes
        if described["bytes"]:
            target = torch.from_numpy(self._numbers[start : start + described["bytes"]])
            target.view(values.dtype).view(values.shape).copy_(values)
        return described | {"at": start}
