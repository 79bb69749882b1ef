"""The batch size of a compiled denoiser, which recompiles for every new size."""

from __future__ import annotations


def padded(living: int, batch: int) -> int:
    """The batch size for `living` candidates: the next power of two, at most `batch`.

    >>> [padded(living, 6) for living in range(1, 7)]
    [1, 2, 4, 4, 6, 6]
    """
    return min(batch, 1 << (living - 1).bit_length())
