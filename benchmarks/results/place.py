"""Results at URLs, for readers of result files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...options import Place


def local_results(place: Place) -> Path:
    """Results, a result file or a score table as a local path: a copy if `place` is a URL.

    Raises:
        NbenchError: it cannot be read, or there is nothing.
    """
    from ...jobs.mirror import read_copy

    return read_copy(place)


def all_local(places: Sequence[Place]) -> list[Path]:
    """`local_results` of each."""
    return [local_results(place) for place in places]
