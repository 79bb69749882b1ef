"""A leaderboard in the formats that people paste elsewhere: Markdown, a page, CSV, JSON."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Callable
from typing import Any

from .leaderboard import COLUMNS, COUNTS, Leaderboard, Line
from .result_file import CI

_WITHOUT_NUMBERS = ("model", "bench", "reference")


def as_json(board: Leaderboard) -> str:
    """One object: `lines`, with `<metric>_ci` beside each metric, and `left_out`."""
    lines = []
    for line in board.lines:
        told: dict[str, Any] = {name: getattr(line, name) for name in ("model", "bench", "position", "reference")}
        told["yardstick"] = line.yardstick
        for name in COLUMNS:
            told[name] = line.figures.get(name)
            if name not in COUNTS:
                told[f"{name}_ci"] = line.intervals.get(name)
        lines.append(told)
    return json.dumps({"sort": board.sort, "lines": lines, "left_out": list(board.left_out)}) + "\n"


def as_csv(board: Leaderboard) -> str:
    """One line a model and bench, full precision, intervals in columns `<metric>_low` and `<metric>_high`."""
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
        table.writerow(
            [line.model, line.bench, line.position, line.reference, *(figures.get(name) for name in columns)]
        )
    return out.getvalue()


def as_markdown(board: Leaderboard) -> str:
    """A table that GitHub and the Hub show."""
    head, rows = cells(board)
    aligned = ["---" if name in _WITHOUT_NUMBERS else "---:" for name in head]
    return "".join(f"| {' | '.join(map(_markdown, row))} |\n" for row in (head, aligned, *rows))


def as_html(board: Leaderboard) -> str:
    """A page of one table; needs nothing else."""
    head, rows = cells(board)
    titles = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in head)
    body = ""
    for line, row in zip(board.lines, rows, strict=True):
        told = "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])
        kind = ' class="yardstick"' if line.yardstick else ""
        body += f'<tr{kind}><th scope="row">{html.escape(row[0])}</th>{told}</tr>\n'
    table = f"<thead><tr>{titles}</tr></thead>\n<tbody>\n{body}</tbody>"
    return f"{_PAGE}<table>\n<caption>{_caption(board)}</caption>\n{table}\n</table>\n"


FORMATS: dict[str, Callable[[Leaderboard], str]] = {
    "md": as_markdown,
    "html": as_html,
    "csv": as_csv,
    "json": as_json,
}

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>nbench leaderboard</title>
<style>
:root { color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif }
body { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
caption { text-align: left; padding: .5em }
th, td { padding: .3em .7em; text-align: right; white-space: nowrap; border-bottom: 1px solid #8885 }
th[scope=row], td:nth-child(2) { text-align: left }
.yardstick { font-style: italic; opacity: .8 }
</style>
"""


def cells(board: Leaderboard) -> tuple[list[str], list[list[str]]]:
    """Headings and lines as text, intervals in brackets."""
    references = len({line.reference for line in board.lines}) > 1
    head = [
        "model",
        "bench",
        "position",
        *(["reference"] if references else ()),
        *(COLUMNS[name] for name in board.columns),
    ]
    rows = [
        [line.model, line.bench, str(line.position), *([line.reference] if references else ())]
        + [cell(line, name) for name in board.columns]
        for line in board.lines
    ]
    return head, rows


def cell(line: Line, name: str, interval: bool = True) -> str:
    """A figure as text, its interval in brackets; `-` where there is none."""
    value = line.figures.get(name)
    if value is None:
        return "-"
    if name in COUNTS:
        return f"{value:.0f}"
    ci: CI = line.intervals.get(name) if interval else None
    return f"{value:z.3f} [{ci[0]:z.3f}, {ci[1]:z.3f}]" if ci else f"{value:z.3f}"


def _spread(metric: str) -> tuple[str, ...]:
    return (metric,) if metric in COUNTS else (metric, f"{metric}_low", f"{metric}_high")


def _markdown(text: str) -> str:
    plain = html.escape(" ".join(text.split()), quote=False)
    return "".join(f"\\{char}" if char in "\\|`*_[]" and text not in ("---", "---:") else char for char in plain)


def _caption(board: Leaderboard) -> str:
    return html.escape(f"Sorted by {COLUMNS[board.sort]}; 95 % intervals over prompts in brackets.")
