"""Results as tables for the terminal: an evaluation, a comparison, a leaderboard, agreement with human ratings."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table

from ..metrics.catalogue import CORE, COUNTS, METRICS, ROW_FIGURES
from ..metrics.pairs import STATISTICS
from ..metrics.rows import Comparison, ResultRow
from .cells import difference, half_width, number, with_ends
from .compare import Difference, ModelComparison
from .leaderboard import Leaderboard, line_cell
from .result_file import EvaluationReport
from .yardsticks import yardstick_lines

if TYPE_CHECKING:
    from ..human_agreement import HumanAgreement

_SIGNIFICANT = 0.05
_WITH_INTERVAL = ("spearman", "recovered_gain")
_LEFT = ("model", "bench", "reference", "metric", "reads", "scope", "skill")
"""Left-aligned columns."""


def print_wide(table: RenderableType) -> None:
    """Print a table at its full width: a narrow terminal wraps lines, a narrow table would lose figures."""
    console = Console()
    console.width = max(console.width, Console(width=1000).measure(table).maximum)
    console.print(table)


def report_table(report: EvaluationReport) -> Group:
    """Metrics of each model at each position, by reference; then, if there are any: paired differences between models,
    corrupted captions, retrieval, costs."""
    tables = [_metrics(report, reference) for reference in report.yardsticks]
    more = (_comparisons, report.comparisons), (_separation, report.separation), (_retrieval, report.retrieval)
    tables += [make(report) for make, rows in more if rows]
    if any(cost.step_seconds for cost in report.costs.values()):
        tables.append(_costs(report))
    return Group(*tables)


def _metrics(report: EvaluationReport, reference: str) -> Table:
    mark = report.yardsticks[reference]
    failed = f", {report.n_failed} failed" if report.n_failed else ""
    table = _plain(
        title=f"{report.bench} against {reference}: {report.n_prompts} prompts x {report.n_candidates}{failed}",
        caption="±: half of the 95 % interval over prompts. (random): a random pick, (final): selection among finished "
        "images, (oracle): selection by the reference itself. recovered gain: share of (final) - (random); n: "
        "candidates scored (+ unscored).",
    )
    headings = (METRICS[name].heading.replace(" ", "\n") for name in CORE)  # narrow enough for 80 columns
    _head(table, "model", "position", *headings, "steps", "n")
    last = None
    for row in (row for row in report.rows if row.reference == reference):
        if last not in (None, row.model):
            table.add_section()
        name = row.model if row.model != last else ""
        last = row.model
        values = [
            number(getattr(row, metric))
            + (half_width(getattr(row, f"{metric}_ci")) if metric in _WITH_INTERVAL else "")
            for metric in CORE
        ]
        table.add_row(name, str(row.position), *values, str(row.cost_steps), _counts(row))
    table.add_section()
    lines = yardstick_lines(mark, report.n_candidates, report.steps)
    for key in ("random", "final", "oracle"):
        figures = lines[key].figures if key in lines else {}
        table.add_row(f"({key})", "", *(number(figures.get(metric)) for metric in CORE), "", "")
    return table


def _comparisons(report: EvaluationReport) -> Table:
    pairs = list(dict.fromkeys((row.model, row.other) for row in report.comparisons))
    cells = {(row.reference, row.position, row.model, row.other): _interval(row) for row in report.comparisons}
    table = _plain(
        title="differences in Spearman, paired by prompt",
        caption="with 95 % bootstrap intervals over prompts; bold: the interval excludes 0",
    )
    _head(table, "reference", "position", *(f"{model} - {other}" for model, other in pairs))
    for reference, position in dict.fromkeys((row.reference, row.position) for row in report.comparisons):
        table.add_row(reference, str(position), *(cells.get((reference, position, *pair), "-") for pair in pairs))
    return table


def _separation(report: EvaluationReport) -> Table:
    table = _plain("true against corrupted captions", "AUROC per kind of corruption; 0.5 is chance")
    kinds = list(dict.fromkeys(row.kind for row in report.separation))
    cells = {(row.model, row.position, row.kind): row.auroc for row in report.separation}
    return _by_position(table, kinds, cells)


def _retrieval(report: EvaluationReport) -> Table:
    table = _plain("retrieval over the bench", "recall at k of latents by text, and of texts by latent")
    cells = {
        (row.model, row.position, f"{row.direction.replace('_', ' ')} @{row.k}"): row.recall for row in report.retrieval
    }
    return _by_position(table, list(dict.fromkeys(heading for *_, heading in cells)), cells)


def _by_position(table: Table, headings: list[str], cells: dict[tuple[str, int, str], float | None]) -> Table:
    _head(table, "model", "position", *headings)
    for model, position in dict.fromkeys((model, position) for model, position, _ in cells):
        values = (number(cells.get((model, position, heading))) for heading in headings)
        table.add_row(model, str(position), *values)
    return table


def _costs(report: EvaluationReport) -> Table:
    table = _plain(
        "cost of a score", "calls: denoiser calls beyond those before the position; steps: ms per score / ms per step"
    )
    _head(table, "model", "reads", "calls", "ms per score", "ms per step", "steps")
    for model, cost in report.costs.items():
        seconds = (cost.seconds_per_score, cost.step_seconds)
        figures = [number(None if value is None else 1000 * value) for value in seconds]
        table.add_row(model, cost.reads, str(cost.calls_per_score), *figures, number(cost.steps_per_score))
    return table


def comparison_table(comparison: ModelComparison) -> Table:
    """One line per reference, metric and position; bold where the difference is significant after Holm's correction."""
    table = _plain(
        _title(comparison), "95 % bootstrap intervals, paired by prompt; p: Holm over positions; bold: p < 0.05"
    )
    _head(table, "reference", "metric", "position", "A", "B", "A - B", "p")
    for row in comparison.rows:
        style = "bold" if _better(row) or _worse(row) else None
        p_value = "-" if row.p_holm is None else f"{row.p_holm:.4f}"
        figures = (number(row.a), number(row.b), difference(row.difference, row.low, row.high), p_value)
        table.add_row(escape(row.reference), METRICS[row.metric].heading, str(row.position), *figures, style=style)
    return table


def digest_table(comparison: ModelComparison) -> Table:
    """One line per reference and metric: at how many positions each model is better, and the middle position."""
    table = _plain(_title(comparison), "better, worse: positions where Holm-corrected p < 0.05; --positions lists all")
    _head(table, "reference", "metric", "better", "worse", "at", "A - B")
    for (reference, metric), group in groupby(comparison.rows, lambda row: (row.reference, row.metric)):
        rows = list(group)
        middle = min(rows, key=lambda row: abs(2 * row.position - rows[-1].position))
        counts = (f"{sum(map(is_significant, rows))}/{len(rows)}" for is_significant in (_better, _worse))
        if middle.p_holm is None:
            counts = ("-" for _ in range(2))
        table.add_row(
            escape(reference),
            METRICS[metric].heading,
            *counts,
            str(middle.position),
            difference(middle.difference, middle.low, middle.high),
        )
    return table


def board_table(board: Leaderboard) -> Table:
    """The core figures, and the one sorted by with its intervals."""
    shown = [name for name in board.columns if name in (*CORE, *COUNTS, board.sort)]
    sort = ROW_FIGURES[board.sort].heading
    caption = f"sorted by {sort}, its 95 % intervals over prompts in brackets; all figures: --format md"
    table = _plain("leaderboard", caption)
    _head(
        table, "model", "bench", "position", "reference", *(ROW_FIGURES[name].heading for name in shown), no_wrap=True
    )
    for line in board.lines:
        figures = (line_cell(line, name, name == board.sort) for name in shown)
        names = (escape(line.model), escape(line.bench), str(line.position), escape(line.reference))
        table.add_row(*names, *figures, style="italic" if line.yardstick else None)
    return table


def agreement_table(agreement: HumanAgreement) -> Table:
    """Agreement with human ratings by position, scope and skill."""
    missing = agreement.n_rated - agreement.n_scored
    unscored = f", {missing} without a score" if missing else ""
    table = _plain(
        f"agreement with human ratings: {agreement.n_rated} rated images{unscored}",
        "overall: all images; within: images of a prompt, mean over prompts; 95 % bootstrap intervals over prompts",
    )
    positions = any(row.position is not None for row in agreement.rows)
    _head(
        table,
        *(["position"] if positions else ()),
        "scope",
        "skill",
        "images",
        *(METRICS[name].heading for name in STATISTICS),
    )
    for row in agreement.rows:
        place = [str(row.position)] if positions else []
        figures = (with_ends(getattr(row, name), getattr(row, f"{name}_ci")) for name in STATISTICS)
        table.add_row(*place, row.scope, escape(row.skill), str(row.n_images), *figures)
    return table


def _plain(title: str, caption: str) -> Table:
    return Table(title=title, caption=caption, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)


def _head(table: Table, *headings: str, no_wrap: bool = False) -> None:
    for heading in headings:
        left = heading in _LEFT
        table.add_column(heading, justify="left" if left else "right", no_wrap=no_wrap or heading == "model")


def _interval(row: Comparison) -> str:
    if row.difference is None or row.low is None or row.high is None:
        return "-"
    text = difference(row.difference, row.low, row.high)
    return f"[bold]{text}[/bold]" if row.low > 0 or row.high < 0 else text


def _counts(row: ResultRow) -> str:
    return f"{row.n_scored}+{row.n_unscored}" if row.n_unscored else str(row.n_scored)


def _title(comparison: ModelComparison) -> str:
    return escape(f"{comparison.bench}: A = {comparison.a}, B = {comparison.b}")


def _better(row: Difference) -> bool:
    return row.p_holm is not None and row.p_holm < _SIGNIFICANT and (row.difference or 0) > 0


def _worse(row: Difference) -> bool:
    return row.p_holm is not None and row.p_holm < _SIGNIFICANT and (row.difference or 0) < 0
