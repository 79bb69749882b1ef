"""What an evaluation leaves on disk: one frozen, versioned file a bench and model, with where it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import NbenchError
from ..shards.atomic import atomic_write


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ResultRow(_Frozen):
    """How one model's scores at one position agree with one reference; null where it cannot be told.

    spearman, kendall, gap, best_of_n: means over prompts; retention, recovered_gain: against choosing by the `clip`
    reference of the final image; n_scored: candidates that have both a score and a reference.
    """

    model: str
    position: int
    reference: str
    spearman: float | None
    kendall: float | None
    gap: float | None
    best_of_n: float | None
    retention: float | None
    recovered_gain: float | None
    cost_steps: int
    n_scored: int


class Comparison(_Frozen):
    """Within-prompt Spearman of `model` minus that of `other`, paired by prompt, with its bootstrap 95 % interval."""

    model: str
    other: str
    position: int
    reference: str
    difference: float | None
    low: float | None
    high: float | None


class Yardstick(_Frozen):
    """Mean reference of a random pick, and of the pick of frozen CLIP on the final images."""

    random: float | None
    final: float | None


class EvaluationResult(_Frozen):
    """All that an evaluation says of one model on one bench, and what it was computed from."""

    format_version: Literal[1] = 1
    nbench_version: str
    bench: str
    bench_fingerprint: str
    model: str
    model_fingerprint: str
    reference_fingerprints: dict[str, str]
    n_prompts: int
    n_candidates: int
    n_failed: int
    steps: int
    yardsticks: dict[str, Yardstick]
    rows: tuple[ResultRow, ...]
    comparisons: tuple[Comparison, ...]


def result_path(out: Path, bench: str, model: str, suffix: str = ".json") -> Path:
    """Where the result of `model` on `bench` lies: `<out>/<bench>/<model><suffix>`."""
    return out / bench / f"{model}{suffix}"


def write_result(path: Path, result: EvaluationResult) -> None:
    """Write `result` to `path`; atomic.

    Raises:
        NbenchError: the folder cannot be written.
    """
    try:
        atomic_write(path, (result.model_dump_json(indent=1) + "\n").encode())
    except OSError as error:
        raise NbenchError(f"cannot write {path}: {error.strerror}; choose another --out") from None


def read_result(path: Path) -> EvaluationResult:
    """The result at `path`.

    Raises:
        NbenchError: there is none, or it is damaged or of another format.
    """
    try:
        return EvaluationResult.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise NbenchError(f"no result at {path}: run nbench evaluate") from None
    except ValidationError as error:
        raise NbenchError(f"{path} is not a result of this nbench ({error.error_count()} fields differ)") from None
