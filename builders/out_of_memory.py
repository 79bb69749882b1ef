"""Catches a batch that does not fit into memory, so that smaller ones can be made."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

OUT_OF_MEMORY = "out of memory"
ONE_DOES_NOT_FIT = f"{OUT_OF_MEMORY} with one image: use --dtype float16, a smaller size or another machine"


def unless_out_of_memory(make: Callable[[], Result]) -> Result | None:
    """What `make` returns; None where it did not fit into memory."""
    import torch

    from ..pipelines.calling import is_out_of_memory

    try:
        return make()
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    # outside the except clause, which keeps the frames and their tensors alive
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def halved_note(images: int, now: int) -> str:
    """The note about a batch of `images` that did not fit; batches of `now` follow."""
    return f"{OUT_OF_MEMORY} with {images} images at a time: going on with {now}"
