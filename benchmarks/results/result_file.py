"""Result files of an evaluation: one frozen, versioned file per bench and model, with its provenance."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from ...errors import NbenchError, one_line, reason_of
from ...shards.atomic import write_out
from ...shards.positions import describe_positions
from ..metrics.catalogue import CORE
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
    """The cost of scoring one candidate once; seconds as measured on the machine of the evaluation, else null.

    calls_per_score: denoiser calls beyond those before the position; seconds_per_score: of the scorer,
    its input included; step_seconds: of one denoiser step of one candidate; steps_per_score: their quotient.
    """

    reads: str
    calls_per_score: int
    seconds_per_score: float | None = None
    step_seconds: float | None = None
    steps_per_score: float | None = None


class EvaluationResult(Frozen):
    """Everything an evaluation reports on one model and one bench, and what it was computed from."""

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


@dataclass(frozen=True, repr=False)
class EvaluationReport:
    """The outcome for all models; files: the results written, paths or URLs as text; costs: by model."""

    bench: str
    n_prompts: int
    n_candidates: int
    n_failed: int
    steps: int
    rows: tuple[ResultRow, ...]
    comparisons: tuple[Comparison, ...]
    yardsticks: dict[str, Yardstick]
    files: tuple[Any, ...]
    separation: tuple[SeparationRow, ...] = ()
    retrieval: tuple[RetrievalRow, ...] = ()
    costs: dict[str, ScorerCost] = field(default_factory=dict)

    def to_pandas(self) -> Any:
        """The rows as a `pandas.DataFrame`: a model at a position against a reference each."""
        import pandas as pd

        return pd.DataFrame([row.model_dump() for row in self.rows])

    def plot(self, path: Path | str | None = None, style: str = "screen") -> Any:
        """The `matplotlib.figure.Figure` of `nbench evaluate --plot`, which is also written to `path`.

        Raises:
            NbenchError: `path` has no format of a plot or cannot be written, or there is no such style.
        """
        from .plot import plot_report, report_figure

        if path is not None:
            plot_report(self, Path(path), style)
        return report_figure(self, style)

    def __repr__(self) -> str:
        models = ", ".join(dict.fromkeys(row.model for row in self.rows))
        places = describe_positions(sorted({row.position for row in self.rows}))
        return one_line(
            f"{models} on {self.bench} ({self.n_prompts} prompts x {self.n_candidates}) at positions {places}, against "
            f"{', '.join(self.yardsticks)}; .to_pandas(), .plot(), .to_json()"
        )

    def _repr_html_(self) -> str:
        shown = ["model", "position", "reference", *CORE, "cost_steps"]
        table = self.to_pandas()[shown].to_html(index=False, float_format="{:.3f}".format, na_rep="-")
        return f"<p>{html.escape(repr(self))}</p>{table}"

    def to_json(self) -> str:
        """The one object that `nbench evaluate --json` prints, without what was not measured."""
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
                **{name: rows for name, rows in more.items() if rows},
            }
        )


def result_path(out: Path, bench: str, model: str, suffix: str = ".json") -> Path:
    """The path of the result of `model` on `bench`: `<out>/<bench>/<model><suffix>`."""
    return out / bench / f"{model}{suffix}"


def write_result(path: Path, result: EvaluationResult) -> None:
    """Write `result` to `path`; atomic.

    Raises:
        NbenchError: the folder cannot be written.
    """
    write_out(path, result.model_dump_json(indent=1) + "\n")


def read_result(path: Path) -> EvaluationResult:
    """The result at `path`. A file of format 1 is converted; fields it lacks are null or empty.

    Raises:
        NbenchError: no such file, or it is damaged or of another format.
    """
    try:
        content = json.loads(path.read_bytes())
        if isinstance(content, dict) and content.get("format_version") == 1:
            content = _from_version_1(content)
        return EvaluationResult.model_validate_json(json.dumps(content))  # as JSON, in which a tuple is a list
    except FileNotFoundError:
        raise NbenchError(f"no result at {path}: run nbench evaluate") from None
    except OSError as error:
        raise NbenchError(f"cannot read {path}: {reason_of(error)}") from None
    except ValidationError as error:
        raise NbenchError(f"{path} is not a result of this nbench ({error.error_count()} fields differ)") from None
    except (ValueError, RecursionError):
        raise NbenchError(f"{path} is not a result of this nbench (not JSON): run nbench evaluate again") from None


def _from_version_1(content: dict[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in content.items() if name != "nbench_version"}
    return rest | {"format_version": 2, "provenance": {"nbench": content.get("nbench_version")}}
