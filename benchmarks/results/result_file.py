"""What an evaluation leaves on disk: one frozen, versioned file a bench and model, with where it comes from."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ...errors import NbenchError
from ...shards.atomic import write_out
from .provenance import Provenance

CI = tuple[float, float] | None
"""Lower and upper end of a 95 % interval over prompts; null where there is none."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ResultRow(_Frozen):
    """How one model's scores at one position agree with one reference; null where it cannot be told.

    Definitions: docs/metrics.md. Where nothing else is said a figure is the mean over prompts. retention and
    recovered_gain: against final-image selection by the yardstick's `chooser`; oracle_gain: against the reference's
    own best. *_global: over all candidates pooled. self_consistency: Spearman with the model's own scores at the
    final position. misaligned_*: telling the candidates whose reference is below the yardstick's `misaligned_below`.
    n_scored: candidates that have both a score and a reference, n_unscored: those that lack one of the two.
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
    n_unscored: int | None = None
    pearson: float | None = None
    pairwise_accuracy: float | None = None
    tie_threshold: float | None = None
    top1: float | None = None
    regret: float | None = None
    oracle_gain: float | None = None
    self_consistency: float | None = None
    spearman_global: float | None = None
    kendall_global: float | None = None
    pearson_global: float | None = None
    pairwise_accuracy_global: float | None = None
    misaligned_auroc: float | None = None
    misaligned_threshold: float | None = None
    misaligned_precision: float | None = None
    misaligned_recall: float | None = None
    spearman_ci: CI = None
    kendall_ci: CI = None
    gap_ci: CI = None
    best_of_n_ci: CI = None
    retention_ci: CI = None
    recovered_gain_ci: CI = None
    pearson_ci: CI = None
    pairwise_accuracy_ci: CI = None
    top1_ci: CI = None
    regret_ci: CI = None
    oracle_gain_ci: CI = None
    self_consistency_ci: CI = None
    spearman_global_ci: CI = None
    kendall_global_ci: CI = None
    pearson_global_ci: CI = None
    pairwise_accuracy_global_ci: CI = None
    misaligned_auroc_ci: CI = None
    misaligned_precision_ci: CI = None
    misaligned_recall_ci: CI = None


class SelectionRow(_Frozen):
    """Best-of-n by a model's scores at a position, for one n: the exact mean over all n of a prompt's candidates.

    recovered_gain: over a random pick, as a share of what final-image selection among all candidates gains.
    """

    model: str
    position: int
    reference: str
    n: int
    cost_steps: int
    best_of_n: float | None
    best_of_n_ci: CI = None
    recovered_gain: float | None
    recovered_gain_ci: CI = None


class SeparationRow(_Frozen):
    """How a model at a position tells true captions from corrupted ones of a kind, or of `all` kinds."""

    model: str
    position: int
    kind: str
    auroc: float | None
    auroc_ci: CI = None
    average_precision: float | None
    average_precision_ci: CI = None
    pairwise_accuracy: float | None
    pairwise_accuracy_ci: CI = None
    n_pairs: int


class RetrievalRow(_Frozen):
    """How often what belongs to a query is among the k nearest: `text_to_latent` or `latent_to_text`."""

    model: str
    position: int
    direction: Literal["text_to_latent", "latent_to_text"]
    k: int
    recall: float | None
    recall_ci: CI = None


class SkillRow(_Frozen):
    """A model at a position on the prompts that ask for one skill; `level` is basic or advanced."""

    model: str
    position: int
    reference: str
    level: str
    skill: str
    n_prompts: int
    spearman: float | None
    spearman_ci: CI = None
    recovered_gain: float | None
    recovered_gain_ci: CI = None


class Summary(_Frozen):
    """A model over all positions: the area under recovered gain over cost, and when levels are first reached.

    earliest: by `metric>=level`, the first position that reaches it; null where none does.
    """

    model: str
    reference: str
    gain_area: float | None
    gain_area_ci: CI = None
    earliest: dict[str, int | None]


class Comparison(_Frozen):
    """Within-prompt Spearman of `model` minus that of `other`, paired by prompt, with its bootstrap 95 % interval.

    p_value: two-sided paired t-test; p_holm: corrected by Holm's method over all comparisons of an evaluation.
    """

    model: str
    other: str
    position: int
    reference: str
    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None = None
    p_holm: float | None = None


class Yardstick(_Frozen):
    """Mean reference of a random pick, of final-image selection, and of the reference's own best.

    chooser: whose scores of the final images final-image selection goes by; `own`: the model's own.
    """

    random: float | None
    final: float | None
    oracle: float | None = None
    random_ci: CI = None
    final_ci: CI = None
    oracle_ci: CI = None
    chooser: str | None = None
    misaligned_below: float | None = None


class ScorerCost(_Frozen):
    """What scoring one candidate once costs; seconds as measured on the machine of the evaluation, null where not.

    calls_per_score: denoiser calls beyond those before the position; seconds_per_score: of the scorer, with what
    makes its input; step_seconds: of a denoiser step of one candidate; steps_per_score: their quotient.
    """

    reads: str
    calls_per_score: int
    seconds_per_score: float | None = None
    step_seconds: float | None = None
    steps_per_score: float | None = None


class EvaluationResult(_Frozen):
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
