"""The seconds that batches of each size take on a machine, in a file, and as costs in denoiser calls."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...errors import NbenchError, reason_of
from ...shards.atomic import write_out
from .config import Costs

Seconds = list[float]
"""For 1, 2, ..., n candidates of each prompt at a time."""


class CostFile(BaseModel):
    """Measured seconds per prompt of a step, a score and a decode of 1 to n candidates of each prompt; on the CPU those
    of the processor, which other processes do not lengthen.

    prompts: how many prompts ran at a time; device, threads: of PyTorch, where it was measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format_version: Literal[1] = 1
    model: str
    pipeline: str
    device: str
    threads: int
    prompts: int = Field(ge=1)
    step_seconds: Seconds = Field(min_length=1)
    score_seconds: Seconds = Field(min_length=1)
    decode_seconds: Seconds = Field(min_length=1)

    def costs(self, calls_per_score: int) -> Costs:
        """In denoiser calls: steps of one candidate among a full batch, the n of each prompt."""
        call = self.step_seconds[-1] / len(self.step_seconds)
        step, score, decode = (
            # a smaller batch takes no longer, whatever the clock says
            tuple((np.maximum.accumulate(seconds) / call).tolist())
            for seconds in (self.step_seconds, self.score_seconds, self.decode_seconds)
        )
        return MeasuredCosts(score[0], decode[0], calls_per_score, step, score, decode)


@dataclass(frozen=True)
class MeasuredCosts(Costs):
    """Costs of batches of 1, 2, ..., n rows; larger ones cost as much per row as those of n."""

    step_of: tuple[float, ...] = ()
    score_of: tuple[float, ...] = ()
    decode_of: tuple[float, ...] = ()

    def steps(self, rows: Any) -> Any:
        """As `Costs.steps`."""
        return _looked_up(self.step_of, rows)

    def scores(self, rows: Any) -> Any:
        """As `Costs.scores`."""
        return _looked_up(self.score_of, rows)

    def decodes(self, rows: Any) -> Any:
        """As `Costs.decodes`."""
        return _looked_up(self.decode_of, rows)


def _looked_up(table: tuple[float, ...], rows: Any) -> Any:
    most = len(table)
    return np.array((0.0, *table))[np.minimum(rows, most)] * np.maximum(rows, most) / most


def read_costs(path: Path) -> CostFile:
    """Read a cost file.

    Raises:
        NbenchError: it cannot be read, or it is not a cost file.
    """
    try:
        return CostFile.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise NbenchError(
            f"{path} is no cost file: {where}: {first['msg']}; nbench tune --measure writes them"
        ) from None
    except OSError as error:
        raise NbenchError(f"no cost file at {path} ({reason_of(error)}): nbench tune --measure writes it") from None


def write_costs(path: Path, costs: CostFile) -> None:
    """Write a cost file atomically.

    Raises:
        NbenchError: the folder cannot be written.
    """
    write_out(path, costs.model_dump_json(indent=1) + "\n")
