"""A set of many texts in some 9 bytes of memory each, however long; all that it tells is whether one is new."""

from __future__ import annotations

from array import array
from collections import defaultdict

_BUCKETS = 2**16


class SeenTexts:
    """Each text as its hash of 64 bits, in one of 65,536 buckets, which another hash chooses.

    Two different texts with the same 80 bits count as one: of eleven million texts, once in 10^10 runs.
    """

    def __init__(self) -> None:
        self._buckets = defaultdict[int, "array[int]"](lambda: array("q"))

    def add(self, text: str) -> bool:
        """Add a text; whether it is new."""
        bucket, value = self._buckets[hash("#" + text) % _BUCKETS], hash(text)
        if value in bucket:
            return False
        bucket.append(value)
        return True
