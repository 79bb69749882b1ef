"""What to measure from two tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ..options import Argument, Option
from .results.place import local_results


@dataclass(frozen=True)
class MetricsConfig:
    """scores, reference: tables; calls_per_position: denoiser calls between two positions; final_position: that of the
    finished image (default: the last one in the tables); misaligned_below: see `Setting`."""

    scores: Annotated[
        Path,
        Argument("Parquet, CSV or JSONL table: prompt_id, candidate, position, score.", parse=local_results),
    ]
    reference: Annotated[
        Path,
        Argument(
            "Parquet, CSV or JSONL table: prompt_id, candidate, score of the final image.",
            parse=local_results,
        ),
    ]
    calls_per_position: Annotated[int, Option("Denoiser calls from one position to the next.", min=1)] = 1
    final_position: Annotated[
        int | None, Option("Position of the finished image. [default: the last one in the tables]", min=1)
    ] = None
    misaligned_below: Annotated[
        float | None, Option("Reference score below which a candidate is misaligned. [default: the median]")
    ] = None
