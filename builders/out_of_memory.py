"""A batch that does not fit into memory: caught, and said, so that smaller ones can be made."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

Made = TypeVar("Made")

OUT_OF_MEMORY = "out of memory"
ONE_DOES_NOT_FIT = f"{OUT_OF_MEMORY} with one image: use --dtype float16, a smaller size or another machine"


def unless_out_of_memory(make: Callable[[], Made]) -> Made | None:
    """What `make` returns; None where it did not fit into memory."""
    try:
        return make()
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "can't allocate memory" not in str(error):
            raise
    # out of the except clause, which keeps the frames and all that is in them alive
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def halved_note(images: int, now: int) -> str:
    """What is said when a batch did not fit."""
    return f"{OUT_OF_MEMORY} with {images} images at a time: going on with {now}"
