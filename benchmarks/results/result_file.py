"""What an evaluation leaves on disk: one frozen, versioned file a bench and model, with where it comes from."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from ...errors import NbenchError
from ...shards.atomic import write_out
from ..metrics.rows import (
    Comparison,
    Frozen,
    ResultRow,
    RetrievalRow,
    SelectionRow,
    SeparationRow,
    SkillRow,
    Summary,
    Yardstick,
)
from .provenance import Provenance


class ScorerCost(Frozen):
    """What scoring one candidate once costs; seconds as measured on the machine of the evaluation, null where not.

    calls_per_score: denoiser calls beyond those before the position; seconds_per_score: of the scorer, with what
    makes its input; step_seconds: of a denoiser step of one candidate; steps_per_score: their quotient.
    """

    reads: str
    calls_per_score: int
    seconds_per_score: float | None = None
    step_seconds: float | None = None
    steps_per_score: float | None = None


class EvaluationResult(Frozen):
    """All that an evaluation says of one model on one bench, and what it was computed from."""

    format_version: Literal[2] = 2
    provenance: Provenance
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
    selection: tuple[SelectionRow, ...] = ()
    separation: tuple[SeparationRow, ...] = ()
    retrieval: tuple[RetrievalRow, ...] = ()
    skills: tuple[SkillRow, ...] = ()
    summaries: tuple[Summary, ...] = ()
    cost: ScorerCost | None = None


@dataclass(frozen=True)
class EvaluationReport:
    """The outcome for all models; `files` are the results written, `costs` by model."""

    bench: str
    n_prompts: int
    n_candidates: int
    n_failed: int
    steps: int
    rows: tuple[ResultRow, ...]
    comparisons: tuple[Comparison, ...]
    yardsticks: dict[str, Yardstick]
    files: tuple[Path, ...]
    separation: tuple[SeparationRow, ...] = ()
    retrieval: tuple[RetrievalRow, ...] = ()
    costs: dict[str, ScorerCost] = field(default_factory=dict)

    def to_json(self) -> str:
        """The one object that `nbench evaluate --json` prints; what was not measured is not in it."""
        more = {
            "separation": [row.model_dump() for row in self.separation],
            "retrieval": [row.model_dump() for row in self.retrieval],
            "costs": {model: cost.model_dump() for model, cost in self.costs.items()},
        }
        return json.dumps(
            {
                "bench": self.bench,
                "n_prompts": self.n_prompts,
                "n_candidates": self.n_candidates,
                "yardsticks": {label: mark.model_dump() for label, mark in self.yardsticks.items()},
                "rows": [row.model_dump() for row in self.rows],
                **{name: found for name, found in more.items() if found},
            }
        )


def result_path(out: Path, bench: str, model: str, suffix: str = ".json") -> Path:
    """Where the result of `model` on `bench` lies: `<out>/<bench>/<model><suffix>`."""
    return out / bench / f"{model}{suffix}"


def write_result(path: Path, result: EvaluationResult) -> None:
    """Write `result` to `path`; atomic.

    Raises:
        NbenchError: the folder cannot be written.
    """
    write_out(path, result.model_dump_json(indent=1) + "\n")


def read_result(path: Path) -> EvaluationResult:
    """The result at `path`; one of format 1 is brought up to date, what it did not hold is null or empty.

    Raises:
        NbenchError: there is none, or it is damaged or of another format.
    """
    try:
        found = json.loads(path.read_bytes())
        if isinstance(found, dict) and found.get("format_version") == 1:
            found = _from_version_1(found)
        return EvaluationResult.model_validate_json(json.dumps(found))  # as JSON, in which a tuple is a list
    except FileNotFoundError:
        raise NbenchError(f"no result at {path}: run nbench evaluate") from None
    except OSError as error:
        raise NbenchError(f"cannot read {path}: {error.strerror}") from None
    except ValidationError as error:
        raise NbenchError(f"{path} is not a result of this nbench ({error.error_count()} fields differ)") from None
    except (ValueError, RecursionError):
        raise NbenchError(f"{path} is not a result of this nbench (no JSON): run nbench evaluate again") from None


def _from_version_1(found: dict[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in found.items() if name != "nbench_version"}
    return rest | {"format_version": 2, "provenance": {"nbench": found.get("nbench_version")}}
