"""What an evaluation shows, in sentences for someone who sees its figures for the first time."""

from __future__ import annotations

from collections.abc import Iterator

from ..metrics.model_figures import YARDSTICK
from ..metrics.rows import ResultRow
from .result_file import EvaluationReport

HALF, FEW = 0.5, 100
"""The share of the cost at which models are compared; below so many prompts intervals are wide."""


def lessons(report: EvaluationReport) -> Iterator[str]:
    """The best selection at half the cost of finishing every candidate, and what readers stumble over."""
    reference = "vqascore" if "vqascore" in report.yardsticks else next(iter(report.yardsticks), None)
    full = report.steps * report.n_candidates
    rows = [
        row
        for row in report.rows
        if row.reference == reference
        and row.recovered_gain is not None
        and row.position > 0  # at 0 is noise: a gain there is chance
        and row.cost_steps <= HALF * full
    ]
    if rows:
        best = max(rows, key=lambda row: row.recovered_gain or 0.0)
        yield (
            f"By {reference}, {best.model} at position {best.position} keeps {_percent(best)} of what selecting the "
            f"best of {report.n_candidates} finished images gains, at {best.cost_steps / full:.0%} of its cost."
        )
    if report.n_prompts < FEW:
        yield f"With {report.n_prompts} prompts intervals are wide: nbench plan --mde says how many are needed."
    if YARDSTICK in report.yardsticks and any(row.model == YARDSTICK for row in report.rows):
        yield (
            f"The model {YARDSTICK} reads previews of latents, the reference {YARDSTICK} the decoded images: they do "
            "not agree fully even at the end."
        )


def _percent(row: ResultRow) -> str:
    ends = row.recovered_gain_ci
    return f"{row.recovered_gain:.0%}" + (f" ({ends[0]:.0%} to {ends[1]:.0%})" if ends else "")
