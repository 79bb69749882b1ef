"""LaTeX tables with booktabs: leaderboards and comparisons, ready for a paper."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import one_line
from ..metrics.catalogue import CORE, METRICS, ROW_FIGURES
from ..metrics.declaration import CI
from .cells import UNKNOWN, number
from .compare import Difference, ModelComparison
from .leaderboard import Leaderboard, Line

_SPECIAL = str.maketrans(
    {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {char: f"\\{char}" for char in "&%$#_{}"}
)


def text(name: str) -> str:
    """A name as LaTeX prints it.

    >>> text("a_b & 50%")
    'a\\\\_b \\\\& 50\\\\%'
    """
    return one_line(name).translate(_SPECIAL)


def figure(value: float | None, interval: CI = None, bold: bool = False, signed: bool = False) -> str:
    """A figure with the ends of its interval in small type."""
    if value is None:
        return UNKNOWN
    shown = f"${value:+z.3f}$" if signed else number(value).replace("-", "$-$")
    ends = "" if interval is None else rf" {{\scriptsize [{', '.join(f'${end:z.3f}$' for end in interval)}]}}"
    return (rf"\textbf{{{shown}}}" if bold else shown) + ends


def tabular(head: Sequence[str], sections: Sequence[Sequence[Sequence[str]]], names: int) -> str:
    """A tabular environment: `names` columns to the left, the others to the right; a rule between sections."""
    lines = [rf"\begin{{tabular}}{{{'l' * names}{'r' * (len(head) - names)}}}", r"\toprule", _row(head), r"\midrule"]
    for number_, section in enumerate(sections):
        lines += [r"\midrule"] * (number_ > 0) + [_row(cells) for cells in section]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def board_latex(board: Leaderboard) -> str:
    """A tabular per bench and reference: core figures with intervals, the best model of each column in bold."""
    parts = []
    for bench, reference in dict.fromkeys((line.bench, line.reference) for line in board.lines):
        lines = [line for line in board.lines if (line.bench, line.reference) == (bench, reference)]
        models = [line for line in lines if not line.yardstick]
        shown = [name for name in dict.fromkeys((board.sort, *CORE)) if name in board.columns]
        best = {name: _best(models, name) for name in shown}
        sections = [
            [
                [text(line.model), str(line.position)]
                + [figure(line.figures.get(name), line.intervals.get(name), line is best[name]) for name in shown]
                for line in section
            ]
            for section in (models, [line for line in lines if line.yardstick])
            if section
        ]
        head = ["model", "position", *(text(ROW_FIGURES[name].heading) for name in shown)]
        about = f"% {text(bench)} by {text(reference)}; 95 % intervals over prompts; needs \\usepackage{{booktabs}}\n"
        parts.append(about + tabular(head, sections, 1))
    return "\n".join(parts)


def comparison_latex(comparison: ModelComparison) -> str:
    """A tabular with a row per reference, metric and position; significant differences (Holm) in bold."""
    rows = [
        [
            text(row.reference),
            text(METRICS[row.metric].heading),
            str(row.position),
            figure(row.a),
            figure(row.b),
            _difference(row),
            UNKNOWN if row.p_holm is None else f"{row.p_holm:.4f}",
        ]
        for row in comparison.rows
    ]
    head = ["reference", "metric", "position", text(comparison.a), text(comparison.b), "difference", "$p$"]
    about = f"% {text(comparison.bench)}; 95 % intervals paired by prompt, p by Holm; needs \\usepackage{{booktabs}}\n"
    return about + tabular(head, [rows], 2)


def _difference(row: Difference) -> str:
    ends = None if row.low is None or row.high is None else (row.low, row.high)
    return figure(row.difference, ends, row.p_holm is not None and row.p_holm < 0.05, signed=True)


def _best(lines: Sequence[Line], name: str) -> Line | None:
    sign = 1 if ROW_FIGURES[name].higher_is_better else -1
    return max(
        (line for line in lines if name in line.figures), key=lambda line: sign * line.figures[name], default=None
    )


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"
