"""Results as tables for the terminal: an evaluation, a comparison, a leaderboard, agreement with human ratings."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from ...console import plain_table, stacked
from ..metrics.catalogue import CORE, COUNTS, METRICS, ROW_FIGURES
from ..metrics.pairs import STATISTICS
from ..metrics.rows import Comparison, ResultRow
from .cells import difference, half_width, number, with_ends
from .compare import Difference, ModelComparison
from .groups import Contest
from .leaderboard import Leaderboard, Line, line_cell
from .result_file import EvaluationReport
from .yardsticks import yardstick_lines

if TYPE_CHECKING:
    from ..human_agreement import HumanAgreement

_SIGNIFICANT = 0.05
_WITH_INTERVAL = ("spearman", "recovered_gain")
_WIDE = "retention"
"""The core figure that tables of 80 columns leave out: Best-of-N and recovered gain say the same."""
_LEFT = ("model", "group", "difference", "reference", "metric", "reads", "scope", "skill")
"""Columns of names."""


def report_table(report: EvaluationReport, wide: bool = False) -> Group:
    """Metrics of each model at each position, by reference; then, if there are any: paired differences between models,
    corrupted captions, retrieval, costs. wide: with retention."""
    tables = [_metrics(report, reference, wide) for reference in report.yardsticks]
    more = (_comparisons, report.comparisons), (_separation, report.separation), (_retrieval, report.retrieval)
    tables += [make(report) for make, rows in more if rows]
    if any(cost.step_seconds for cost in report.costs.values()):
        tables.append(_costs(report))
    return stacked(tables)


def _metrics(report: EvaluationReport, reference: str, wide: bool) -> Table:
    mark, shown = report.yardsticks[reference], [name for name in CORE if wide or name != _WIDE]
    failed = f", {report.n_failed} failed" if report.n_failed else ""
    table = _plain(
        f"{report.bench} against {reference}: {report.n_prompts} prompts x {report.n_candidates}{failed}",
        "±: half of the 95 % interval over prompts. (random): a random pick, (final): selection among finished "
        "images, (oracle): selection by the reference itself. recovered gain: share of (final) - (random); n: "
        "candidates scored (+ unscored).",
        "model",
        "position",
        *map(_narrow, shown),
        "steps",
        "n",
    )
    last = None
    for row in (row for row in report.rows if row.reference == reference):
        if last not in (None, row.model):
            table.add_section()
        name = row.model if row.model != last else ""
        last = row.model
        values = [
            number(getattr(row, metric))
            + (half_width(getattr(row, f"{metric}_ci")) if metric in _WITH_INTERVAL else "")
            for metric in shown
        ]
        table.add_row(name, str(row.position), *values, str(row.cost_steps), _counts(row))
    table.add_section()
    lines = yardstick_lines(mark, report.n_candidates, report.steps)
    for key in ("random", "final", "oracle"):
        figures = lines[key].figures if key in lines else {}
        table.add_row(f"({key})", "", *(number(figures.get(metric)) for metric in shown), "", "")
    return table


def _comparisons(report: EvaluationReport) -> Table:
    table = _plain(
        "differences in Spearman, paired by prompt",
        "with 95 % bootstrap intervals over prompts; bold: the interval excludes 0",
        "difference",
        "reference",
        "position",
        "Spearman",
    )
    last = None
    for row in sorted(report.comparisons, key=lambda row: (row.model, row.other, row.reference)):
        pair = (row.model, row.other, row.reference)
        if last not in (None, pair):
            table.add_section()
        names = ("", "") if pair == last else (f"{row.model} - {row.other}", row.reference)
        table.add_row(*names, str(row.position), _interval(row))
        last = pair
    return table


def _separation(report: EvaluationReport) -> Table:
    kinds = list(dict.fromkeys(row.kind for row in report.separation))
    cells = {(row.model, row.position, row.kind): row.auroc for row in report.separation}
    about = "AUROC per kind of corruption; 0.5 is chance"
    return _by_position("true against corrupted captions", about, kinds, cells)


def _retrieval(report: EvaluationReport) -> Table:
    cells = {
        (row.model, row.position, f"{row.direction.replace('_', ' ')} @{row.k}"): row.recall for row in report.retrieval
    }
    about = "recall at k of latents by text, and of texts by latent"
    return _by_position("retrieval over the bench", about, list(dict.fromkeys(key[2] for key in cells)), cells)


def _by_position(title: str, about: str, headings: list[str], cells: dict[tuple[str, int, str], float | None]) -> Table:
    table = _plain(title, about, "model", "position", *(heading.replace(" ", "\n") for heading in headings))
    for model, position in dict.fromkeys((model, position) for model, position, _ in cells):
        values = (number(cells.get((model, position, heading))) for heading in headings)
        table.add_row(model, str(position), *values)
    return table


def _costs(report: EvaluationReport) -> Table:
    table = _plain(
        "cost of a score",
        "calls: denoiser calls beyond those before the position; steps: ms per score / ms per step",
        "model",
        "reads",
        "calls",
        "ms per score",
        "ms per step",
        "steps",
    )
    for model, cost in report.costs.items():
        seconds = (cost.seconds_per_score, cost.step_seconds)
        figures = [number(None if value is None else 1000 * value) for value in seconds]
        table.add_row(model, cost.reads, str(cost.calls_per_score), *figures, number(cost.steps_per_score))
    return table


def comparison_table(comparison: ModelComparison) -> Table:
    """One line per reference, metric and position; bold where the difference is significant after Holm's correction."""
    about = "95 % bootstrap intervals, paired by prompt; p: Holm over positions; bold: p < 0.05"
    table = _plain(_title(comparison), about, "reference", "metric", "position", "A", "B", "A - B", "p")
    for row in comparison.rows:
        style = "bold" if _better(row) or _worse(row) else None
        p_value = "-" if row.p_holm is None else f"{row.p_holm:.4f}"
        figures = (number(row.a), number(row.b), difference(row.difference, row.low, row.high), p_value)
        table.add_row(row.reference, METRICS[row.metric].heading, str(row.position), *figures, style=style)
    return table


def digest_table(comparison: ModelComparison) -> Table:
    """One line per reference and metric: at how many positions each model is better, and the middle position."""
    about = "better, worse: positions where Holm-corrected p < 0.05; --positions lists all"
    table = _plain(_title(comparison), about, "reference", "metric", "better", "worse", "at", "A - B")
    for (reference, metric), group in groupby(comparison.rows, lambda row: (row.reference, row.metric)):
        rows = list(group)
        middle = min(rows, key=lambda row: abs(2 * row.position - rows[-1].position))
        counts = (f"{sum(map(is_significant, rows))}/{len(rows)}" for is_significant in (_better, _worse))
        if middle.p_holm is None:
            counts = ("-" for _ in range(2))
        table.add_row(
            reference,
            METRICS[metric].heading,
            *counts,
            str(middle.position),
            difference(middle.difference, middle.low, middle.high),
        )
    return table


def board_tables(board: Leaderboard, wide: bool = False) -> Group:
    """A table per bench and reference: the figure sorted by, and core figures; wide: all, with ends of intervals."""
    tables = []
    for bench, reference in dict.fromkeys((line.bench, line.reference) for line in board.lines):
        lines = [line for line in board.lines if (line.bench, line.reference) == (bench, reference)]
        places = {line.position for line in lines if not line.yardstick}
        contest = board.contests.get((bench, reference))
        narrow = {board.sort, "cost_steps", *CORE} - {_WIDE}
        figures = dict.fromkeys((board.sort, *board.columns))
        shown = [name for name in figures if name in board.columns and (wide or name in narrow)]
        where = f" at position {places.pop()}" if len(places) == 1 else ""
        columns = ["model", *(["group"] if contest else ()), *(["position"] if where == "" else ())]
        table = _plain(f"{bench}{where}, by {reference}", _about(board, contest), *columns, *map(_narrow, shown))
        for line in lines:
            names = {"model": line.model, "group": line.group, "position": str(line.position)}
            cells = [*(names[column] for column in columns), *(_board_cell(line, name, wide) for name in shown)]
            table.add_row(*cells, style="italic" if line.yardstick else None)
        tables.append(table)
    return stacked(tables)


def _about(board: Leaderboard, contest: Contest | None) -> str:
    heading = ROW_FIGURES[board.sort].heading
    about = f"sorted by {heading}, intervals of 95 % over prompts"
    if contest is None:
        return f"{about}; --wide has all figures"
    about += "; models that share a letter cannot be told apart (paired t-tests, Holm, p < 0.05)"
    if contest.smallest is not None:
        about += (
            f"; {contest.n_prompts} prompts show a difference of {contest.smallest:.2g} in {heading} with 80 % power"
        )
    return f"{about}; --wide has all figures"


def _board_cell(line: Line, name: str, wide: bool) -> str:
    if wide or name in COUNTS:
        return line_cell(line, name)
    return number(line.figures.get(name)) + half_width(line.intervals.get(name))


def agreement_table(agreement: HumanAgreement, wide: bool = False) -> Table:
    """Agreement with human ratings by position, scope and skill; wide: with the ends of intervals."""
    missing = agreement.n_rated - agreement.n_scored
    unscored = f", {missing} without a score" if missing else ""
    positions = any(row.position is not None for row in agreement.rows)
    table = _plain(
        f"agreement with human ratings: {agreement.n_rated} rated images{unscored}",
        "overall: all images; within: images of a prompt, mean over prompts; 95 % bootstrap intervals over prompts"
        + ("" if wide else " (±: half)"),
        *(["position"] if positions else ()),
        "scope",
        "skill",
        "images",
        *map(_narrow, STATISTICS),
    )
    for row in agreement.rows:
        place = [str(row.position)] if positions else []
        ends = ((getattr(row, name), getattr(row, f"{name}_ci")) for name in STATISTICS)
        figures = (with_ends(*end) if wide else number(end[0]) + half_width(end[1]) for end in ends)
        table.add_row(*place, row.scope, row.skill, str(row.n_images), *figures)
    return table


def _narrow(figure: str) -> str:
    """The heading of a figure, a word a line, so that tables fit 80 columns."""
    return (METRICS.get(figure) or ROW_FIGURES[figure]).heading.replace(" ", "\n")


def _plain(title: str, caption: str, *headings: str) -> Table:
    return plain_table(*headings, title=title, caption=caption, left=_LEFT)


def _interval(row: Comparison) -> Text:
    excludes_0 = row.low is not None and row.high is not None and (row.low > 0 or row.high < 0)
    return Text(difference(row.difference, row.low, row.high), "bold" if excludes_0 else "")


def _counts(row: ResultRow) -> str:
    return f"{row.n_scored}+{row.n_unscored}" if row.n_unscored else str(row.n_scored)


def _title(comparison: ModelComparison) -> str:
    return f"{comparison.bench}: A = {comparison.a}, B = {comparison.b}"


def _better(row: Difference) -> bool:
    return row.p_holm is not None and row.p_holm < _SIGNIFICANT and (row.difference or 0) > 0


def _worse(row: Difference) -> bool:
    return row.p_holm is not None and row.p_holm < _SIGNIFICANT and (row.difference or 0) < 0
