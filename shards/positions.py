"""Parse and print positions: `all`, `20,30`, `20:30`, `0:50:5` (the end is included)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from ..errors import NbenchError, one_line

_PART = re.compile(r"(\d{1,18})(?::(\d{1,18})(?::(\d{1,18}))?)?")


def parse_positions(text: str, steps: int) -> tuple[int, ...]:
    """The positions that `text` selects from a run of `steps` steps, ascending, without repeats.

    >>> parse_positions("20:30:5,0", steps=50)
    (0, 20, 25, 30)

    Raises:
        NbenchError: invalid text, or a position beyond `steps` (the finished latent).
    """
    if text.strip() == "all":
        return tuple(range(steps + 1))
    positions: set[int] = set()
    for part in text.split(","):
        match = _PART.fullmatch(part.strip())
        first, last, every = (int(group) if group else None for group in match.groups()) if match else (None,) * 3
        if first is None or every == 0 or (last is not None and last < first):
            short = one_line(text, 100)
            raise NbenchError(f"positions {short!r} not understood: write all, 20,30 or 0:50:5 (first:last:every)")
        chosen = range(first, (first if last is None else last) + 1, every or 1)
        if chosen[-1] > steps:  # before any of them is made
            raise NbenchError(f"latents {chosen[-1]} not in a run of {steps} steps: it has 0..{steps}")
        positions.update(chosen)
    return tuple(sorted(positions))


def describe_positions(positions: Sequence[int]) -> str:
    """Positions as short text.

    >>> describe_positions([0, 5, 10, 15]), describe_positions([20, 30, 50])
    ('0..15 (every 5th)', '20, 30, 50')
    """
    gaps = {after - before for before, after in pairwise(positions)}
    if len(positions) < 4 or len(gaps) > 1:
        return ", ".join(map(str, positions))
    every = gaps.pop()
    return f"{positions[0]}..{positions[-1]}" + (f" (every {every}th)" if every > 1 else "")
