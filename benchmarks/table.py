"""An evaluation as tables for the terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table

from .results import Comparison, EvaluationReport

_COLUMNS = {
    "spearman": "Spearman",
    "kendall": "Kendall",
    "gap": "gap",
    "best_of_n": "Best-of-N",
    "retention": "retention",
    "recovered_gain": "gain",
}


def report_table(report: EvaluationReport) -> Group:
    """Metrics of each model at each position, by reference, and the paired differences between the models."""
    tables = [_metrics(report, reference) for reference in report.yardsticks]
    return Group(*tables, _comparisons(report)) if report.comparisons else Group(*tables)


def _metrics(report: EvaluationReport, reference: str) -> Table:
    mark = report.yardsticks[reference]
    failed = f", {report.n_failed} failed" if report.n_failed else ""
    table = _plain(
        title=f"{report.bench} against {reference}: {report.n_prompts} prompts x {report.n_candidates}{failed}",
        caption=f"Best-of-{report.n_candidates}: random {_number(mark.random)}, "
        f"final-image selection {_number(mark.final)}. gain: the share of that difference kept; n: candidates scored.",
    )
    table.add_column("model", no_wrap=True)
    for heading in ("position", *_COLUMNS.values(), "steps", "n"):
        table.add_column(heading, justify="right")
    last = None
    for row in (row for row in report.rows if row.reference == reference):
        if last not in (None, row.model):
            table.add_section()
        name = row.model if row.model != last else ""
        last = row.model
        values = (_number(getattr(row, column)) for column in _COLUMNS)
        table.add_row(name, str(row.position), *values, str(row.cost_steps), str(row.n_scored))
    return table


def _comparisons(report: EvaluationReport) -> Table:
    pairs = list(dict.fromkeys((row.model, row.other) for row in report.comparisons))
    cells = {(row.reference, row.position, row.model, row.other): _interval(row) for row in report.comparisons}
    table = _plain(
        title="differences in Spearman, paired by prompt",
        caption="with 95 % bootstrap intervals over prompts; bold where that excludes 0",
    )
    table.add_column("reference")
    table.add_column("position", justify="right")
    for model, other in pairs:
        table.add_column(f"{model} - {other}", justify="right")
    for reference, position in dict.fromkeys((row.reference, row.position) for row in report.comparisons):
        table.add_row(reference, str(position), *(cells.get((reference, position, *pair), "-") for pair in pairs))
    return table


def _plain(title: str, caption: str) -> Table:
    """Narrow enough for 80 columns."""
    return Table(title=title, caption=caption, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)


def _interval(row: Comparison) -> str:
    if row.difference is None or row.low is None or row.high is None:
        return "-"
    text = f"{row.difference:+z.3f} ({row.low:+z.3f} .. {row.high:+z.3f})"
    return f"[bold]{text}[/bold]" if row.low > 0 or row.high < 0 else text


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:z.3f}"
