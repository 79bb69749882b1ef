"""Leaderboards and comparisons as Markdown, CSV, LaTeX or JSON."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Callable, Collection
from dataclasses import asdict, fields
from typing import Any

from ...errors import NbenchError, printable
from ..metrics.catalogue import ROW_FIGURES
from .compare import Difference, ModelComparison
from .latex import board_latex, comparison_latex
from .leaderboard import Leaderboard, line_cell

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a spreadsheet takes for the start of a formula, also in full width."""
_WITHOUT_NUMBERS = ("model", "bench", "reference")


def as_json(board: Leaderboard) -> str:
    """One object: `lines`, with `<metric>_ci` beside each metric and the `group` of models that cannot be told apart;
    `left_out`, `notes`, and `contests`: per bench and reference the prompts compared, and the smallest difference that
    they show."""
    lines = []
    for line in board.lines:
        fields: dict[str, Any] = {name: getattr(line, name) for name in ("model", "bench", "position", "reference")}
        fields |= {"yardstick": line.yardstick, "group": line.group or None}
        for name, figure in ROW_FIGURES.items():
            fields[name] = line.figures.get(name)
            if not figure.whole:
                fields[f"{name}_ci"] = line.intervals.get(name)
        lines.append(fields)
    contests = [
        {"bench": bench, "reference": reference, "n_prompts": held.n_prompts, "smallest_difference": held.smallest}
        for (bench, reference), held in board.contests.items()
    ]
    notes = {"left_out": list(board.left_out), "notes": list(board.notes), "contests": contests}
    return json.dumps({"sort": board.sort, "lines": lines, **notes}) + "\n"


def as_csv(board: Leaderboard) -> str:
    """One line per model and bench in full precision; intervals in columns `<metric>_low` and `<metric>_high`."""
    columns = [name for metric in board.columns for name in _spread(metric)]
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["model", "bench", "position", "reference", *columns])
    for line in board.lines:
        cells = {
            f"{name}_{end}": value
            for name, ci in line.intervals.items()
            for end, value in zip(("low", "high"), ci, strict=True)
        }
        figures = line.figures | cells
        names = (_csv(line.model), _csv(line.bench), line.position, _csv(line.reference))
        table.writerow([*names, *(figures.get(name) for name in columns)])
    return out.getvalue()


def as_markdown(board: Leaderboard) -> str:
    """A Markdown table, as GitHub and the Hub render it."""
    head, rows = _cells(board)
    aligned = ["---" if name in _WITHOUT_NUMBERS else "---:" for name in head]
    return "".join(f"| {' | '.join(map(_markdown, row))} |\n" for row in (head, aligned, *rows))


def comparison_csv(comparison: ModelComparison) -> str:
    """One line per reference, metric and position, in full precision."""
    out = io.StringIO()
    table = csv.DictWriter(out, [field.name for field in fields(Difference)], lineterminator="\n")
    table.writeheader()
    for row in comparison.rows:
        table.writerow({name: _csv(value) if isinstance(value, str) else value for name, value in asdict(row).items()})
    return out.getvalue()


def comparison_json(comparison: ModelComparison) -> str:
    """One object, with `rows`."""
    return json.dumps(asdict(comparison)) + "\n"


BOARD_FORMATS: dict[str, Callable[[Leaderboard], str]] = {
    "md": as_markdown,
    "csv": as_csv,
    "latex": board_latex,
    "json": as_json,
}
COMPARISON_FORMATS: dict[str, Callable[[ModelComparison], str]] = {
    "csv": comparison_csv,
    "latex": comparison_latex,
    "json": comparison_json,
}


def check_format(format: str, formats: Collection[str]) -> None:
    """Refuse a format that does not exist.

    Raises:
        NbenchError: it is not one of `formats`.
    """
    if format not in formats:
        page = "; nbench report makes a page" if format == "html" else ""
        raise NbenchError(f"no format {format!r}: there are {', '.join(formats)}{page}")


def _cells(board: Leaderboard) -> tuple[list[str], list[list[str]]]:
    """Headings and lines as text, intervals in brackets."""
    references = len({line.reference for line in board.lines}) > 1
    head = [
        "model",
        "bench",
        "position",
        *(["reference"] if references else ()),
        *(ROW_FIGURES[name].heading for name in board.columns),
    ]
    rows = [
        [line.model, line.bench, str(line.position), *([line.reference] if references else ())]
        + [line_cell(line, name) for name in board.columns]
        for line in board.lines
    ]
    return head, rows


def _spread(metric: str) -> tuple[str, ...]:
    return (metric,) if ROW_FIGURES[metric].whole else (metric, f"{metric}_low", f"{metric}_high")


def _csv(text: str) -> str:
    """Text from data as a cell that a spreadsheet shows, and does not calculate."""
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) else text


def _markdown(text: str) -> str:
    plain = html.escape(printable(" ".join(text.split())), quote=False)
    return "".join(f"\\{char}" if char in "\\|`*_[]" and text not in ("---", "---:") else char for char in plain)
