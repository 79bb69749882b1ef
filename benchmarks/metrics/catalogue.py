"""All figures by name. Each metric is declared in the module of its topic; tables, files and the page read it here."""

from __future__ import annotations

from . import agreement, selection, separation
from .declaration import Figure, Metric

METRICS: dict[str, Metric] = {
    metric.name: metric for metric in (*agreement.METRICS, *selection.METRICS, *separation.METRICS)
}
"""Every figure of a row of results with its interval, in the order of columns."""

COUNTS: dict[str, Figure] = {
    figure.name: figure
    for figure in (
        selection.COST_STEPS,
        Figure("n_scored", "scored", "candidates with a score and a reference", whole=True),
        Figure("n_unscored", "unscored", "candidates with one of the two only", higher_is_better=False, whole=True),
    )
}
"""Whole numbers of a row of results."""

ROW_FIGURES: dict[str, Figure] = {**METRICS, **COUNTS}
"""The columns that rows of results can be sorted by."""

CORE = tuple(name for name, metric in METRICS.items() if metric.core)
"""Metrics shown in narrow tables."""
