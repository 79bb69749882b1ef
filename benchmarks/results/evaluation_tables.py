"""An evaluation as tables for the terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.table import Table

from ..metrics.prompt_values import known
from ..metrics.selection import recovered_gain, retention
from .result_file import CI, Comparison, EvaluationReport, ResultRow, Yardstick

_COLUMNS = {"spearman": "Spearman", "best_of_n": "Best-of-N", "retention": "retention", "recovered_gain": "gain"}
_WITH_INTERVAL = ("spearman", "recovered_gain")


def print_report(report: EvaluationReport) -> None:
    """Print it, whole: a narrow terminal wraps lines, a narrow table would lose figures."""
    table, console = report_table(report), Console()
    console.width = max(console.width, Console(width=1000).measure(table).maximum)
    console.print(table)


def report_table(report: EvaluationReport) -> Group:
    """Metrics of each model at each position, by reference, and the paired differences between the models; then what
    else was asked for: corrupted captions, retrieval, costs."""
    tables = [_metrics(report, reference) for reference in report.yardsticks]
    more = (_comparisons, report.comparisons), (_separation, report.separation), (_retrieval, report.retrieval)
    tables += [make(report) for make, found in more if found]
    if any(cost.step_seconds for cost in report.costs.values()):
        tables.append(_costs(report))
    return Group(*tables)


def _metrics(report: EvaluationReport, reference: str) -> Table:
    mark = report.yardsticks[reference]
    failed = f", {report.n_failed} failed" if report.n_failed else ""
    table = _plain(
        title=f"{report.bench} against {reference}: {report.n_prompts} prompts x {report.n_candidates}{failed}",
        caption="±: half of the 95 % interval over prompts. (random): a blind pick, (final): choosing among finished "
        "images, (oracle): by the reference itself. gain: the share of (final) - (random) kept; n: candidates scored "
        "(+ unscored).",
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
        values = [
            _number(getattr(row, column)) + (_spread(getattr(row, f"{column}_ci")) if column in _WITH_INTERVAL else "")
            for column in _COLUMNS
        ]
        table.add_row(name, str(row.position), *values, str(row.cost_steps), _counts(row))
    table.add_section()
    for name, value in (("(random)", mark.random), ("(final)", mark.final), ("(oracle)", mark.oracle)):
        table.add_row(name, "", "", _number(value), *map(_number, _against(mark, value)), "", "")
    return table


def _against(mark: Yardstick, value: float | None) -> tuple[float | None, float | None]:
    """Retention and recovered gain of a yardstick itself."""
    if value is None or mark.random is None or mark.final is None:
        return None, None
    kept, gain = retention(value, mark.final), recovered_gain(value, mark.random, mark.final)
    return known(kept), known(gain)


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


def _separation(report: EvaluationReport) -> Table:
    table = _plain("true captions against corrupted ones", "AUROC by kind of corruption; 0.5 is chance")
    kinds = list(dict.fromkeys(row.kind for row in report.separation))
    cells = {(row.model, row.position, row.kind): row.auroc for row in report.separation}
    return _by_position(table, kinds, cells)


def _retrieval(report: EvaluationReport) -> Table:
    table = _plain("retrieval over the bench", "recall at k, of latents by their text and of texts by their latent")
    cells = {
        (row.model, row.position, f"{row.direction.replace('_', ' ')} @{row.k}"): row.recall for row in report.retrieval
    }
    return _by_position(table, list(dict.fromkeys(heading for *_, heading in cells)), cells)


def _by_position(table: Table, headings: list[str], cells: dict[tuple[str, int, str], float | None]) -> Table:
    for heading in ("model", "position", *headings):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for model, position in dict.fromkeys((model, position) for model, position, _ in cells):
        values = (_number(cells.get((model, position, heading))) for heading in headings)
        table.add_row(model, str(position), *values)
    return table


def _costs(report: EvaluationReport) -> Table:
    table = _plain("what a score costs", "calls: of the denoiser, beyond those before the position; steps: ms over ms")
    for heading in ("model", "reads", "calls", "ms a score", "ms a step", "steps"):
        table.add_column(heading, justify="left" if heading in ("model", "reads") else "right")
    for model, cost in report.costs.items():
        seconds = (cost.seconds_per_score, cost.step_seconds)
        figures = [_number(None if value is None else 1000 * value) for value in seconds]
        table.add_row(model, cost.reads, str(cost.calls_per_score), *figures, _number(cost.steps_per_score))
    return table


def _plain(title: str, caption: str) -> Table:
    """Narrow enough for 80 columns."""
    return Table(title=title, caption=caption, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)


def _interval(row: Comparison) -> str:
    if row.difference is None or row.low is None or row.high is None:
        return "-"
    text = f"{row.difference:+z.3f} ({row.low:+z.3f} .. {row.high:+z.3f})"
    return f"[bold]{text}[/bold]" if row.low > 0 or row.high < 0 else text


def _counts(row: ResultRow) -> str:
    return f"{row.n_scored}+{row.n_unscored}" if row.n_unscored else str(row.n_scored)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:z.3f}"


def _spread(interval: CI) -> str:
    return "      " if interval is None else f"±{(interval[1] - interval[0]) / 2:.3f}"
