"""Comparisons, leaderboards and agreement with people as tables for the terminal."""

from __future__ import annotations

from itertools import groupby

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from ..human_agreement import AgreementRow, HumanAgreement
from ..metrics.pairs import STATISTICS
from .compare import Difference, ModelComparison
from .leaderboard import COLUMNS, Leaderboard
from .leaderboard_formats import cell
from .result_file import CI

_SIGNIFICANT = 0.05
_CORE = ("spearman", "best_of_n", "recovered_gain", "cost_steps", "n_scored", "n_unscored")


def comparison_table(found: ModelComparison) -> Table:
    """A line for each reference, metric and position; bold where the difference holds after Holm's correction."""
    table = _plain(_title(found), "95 % bootstrap intervals, paired by prompt; p: Holm over positions; bold: p < 0.05")
    for name in ("reference", "metric", "position", "A", "B", "A - B", "p"):
        table.add_column(name, justify="left" if name in ("reference", "metric") else "right")
    for row in found.rows:
        style = "bold" if _better(row) or _worse(row) else None
        p_value = "-" if row.p_holm is None else f"{row.p_holm:.4f}"
        figures = (_number(row.a), _number(row.b), _difference(row), p_value)
        table.add_row(escape(row.reference), COLUMNS[row.metric], str(row.position), *figures, style=style)
    return table


def digest_table(found: ModelComparison) -> Table:
    """A line for each reference and metric: at how many positions which model is better, and the middle one."""
    table = _plain(_title(found), "better, worse: positions where Holm-corrected p < 0.05; every one: --positions")
    for name in ("reference", "metric", "better", "worse", "at", "A - B"):
        table.add_column(name, justify="left" if name in ("reference", "metric") else "right")
    for (reference, metric), group in groupby(found.rows, lambda row: (row.reference, row.metric)):
        rows = list(group)
        middle = min(rows, key=lambda row: abs(2 * row.position - rows[-1].position))
        counts = (f"{sum(map(told, rows))}/{len(rows)}" for told in (_better, _worse))
        if middle.p_holm is None:
            counts = ("-" for _ in range(2))
        table.add_row(escape(reference), COLUMNS[metric], *counts, str(middle.position), _difference(middle))
    return table


def board_table(board: Leaderboard) -> Table:
    """The figures that matter most and those sorted by, these with their intervals."""
    shown = [name for name in board.columns if name in (*_CORE, board.sort)]
    caption = f"sorted by {COLUMNS[board.sort]}, its 95 % intervals over prompts in brackets; all figures: --format md"
    table = _plain("leaderboard", caption)
    for name in ("model", "bench", "position", "reference", *(COLUMNS[column] for column in shown)):
        table.add_column(name, justify="left" if name in ("model", "bench", "reference") else "right", no_wrap=True)
    for line in board.lines:
        figures = (cell(line, name, name == board.sort) for name in shown)
        names = (escape(line.model), escape(line.bench), str(line.position), escape(line.reference))
        table.add_row(*names, *figures, style="italic" if line.yardstick else None)
    return table


def agreement_table(found: HumanAgreement) -> Table:
    """Agreement with people, by position, scope and skill."""
    missing = found.n_rated - found.n_scored
    table = _plain(
        f"agreement with people: {found.n_rated} rated images{f', {missing} without a score' if missing else ''}",
        "overall: all images; within: images of a prompt, mean over prompts; 95 % bootstrap intervals over prompts",
    )
    positions = any(row.position is not None for row in found.rows)
    for name in (*(["position"] if positions else ()), "scope", "skill", "images", "Pearson", "Kendall", "pairwise"):
        table.add_column(name, justify="left" if name in ("scope", "skill") else "right")
    for row in found.rows:
        place = [str(row.position)] if positions else []
        figures = (_interval(row, name) for name in STATISTICS)
        table.add_row(*place, row.scope, escape(row.skill), str(row.n_images), *figures)
    return table


def _plain(title: str, caption: str) -> Table:
    return Table(title=title, caption=caption, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)


def _title(found: ModelComparison) -> str:
    return escape(f"{found.bench}: A = {found.a}, B = {found.b}")


def _better(row: Difference) -> bool:
    return row.p_holm is not None and row.p_holm < _SIGNIFICANT and (row.difference or 0) > 0


def _worse(row: Difference) -> bool:
    return row.p_holm is not None and row.p_holm < _SIGNIFICANT and (row.difference or 0) < 0


def _difference(row: Difference) -> str:
    if row.difference is None:
        return "-"
    ends = "" if row.low is None or row.high is None else f" ({row.low:+z.3f} .. {row.high:+z.3f})"
    return f"{row.difference:+z.3f}{ends}"


def _interval(row: AgreementRow, name: str) -> str:
    ci: CI = getattr(row, f"{name}_ci")
    return _number(getattr(row, name)) + (f" ({ci[0]:z.3f} .. {ci[1]:z.3f})" if ci else "")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:z.3f}"
