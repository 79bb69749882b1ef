"""An evaluation as one picture: agreement by position, and Best-of-N by cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import NbenchError, one_line, reason_of
from ...shards.atomic import atomic_write
from .result_file import EvaluationReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#E69F00",
)  # Okabe and Ito: safe for the colour-blind
_MARKERS = ("o", "s", "^", "D", "v", "P")
_INK, _FAINT = "#333333", "#8A8A8A"
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "axes.axisbelow": True,
    "lines.linewidth": 2,
    "legend.frameon": False,
}


STYLES: dict[str, dict[Any, Any]] = {
    "screen": {},
    # the type and size of a paper's column
    "paper": {
        "font.size": 8,
        "axes.titlesize": 8,
        "axes.titleweight": "normal",
        "font.family": "serif",
        "mathtext.fontset": "dejavuserif",
        "lines.linewidth": 1.2,
    },
}
_FORMATS = (".png", ".pdf", ".svg")
_WIDTHS = {"screen": (11, 3.6), "paper": (6.75, 2.3)}
"""Inches: of the figure, and the height of a row; 6.75 is the width of a page's text at NeurIPS, ICML and CVPR."""


def check_plot(path: Path, style: str) -> None:
    """Refuse a plot that cannot be made, before the work.

    Raises:
        NbenchError: the suffix is no format of plots, or there is no such style.
    """
    if path.suffix.lower() not in _FORMATS:
        raise NbenchError(f"--plot {path} has no format of a plot: end its name with {', '.join(_FORMATS)}")
    _check_style(style)


def _check_style(style: str) -> None:
    if style not in STYLES:
        raise NbenchError(f"no plot style {style}: there are {', '.join(STYLES)}")


def plot_report(report: EvaluationReport, path: Path, style: str = "screen") -> None:
    """Write two panels per reference, with bands of 95 % intervals: agreement by position, and Best-of-N by cost.

    Args:
        path: its suffix, .png, .pdf or .svg, is the format.
        style: one of `STYLES`.

    Raises:
        NbenchError: as `check_plot`, or `path` cannot be written.
    """
    check_plot(path, style)
    from io import BytesIO

    from matplotlib import rc_context

    image, suffix = BytesIO(), path.suffix.lower()
    undated = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}.get(suffix)
    with rc_context(_settings(style)):
        report_figure(report, style).savefig(image, format=suffix[1:], dpi=160, metadata=undated)
    try:
        atomic_write(path, image.getvalue())
    except OSError as error:
        raise NbenchError(f"cannot write {path}: {reason_of(error)}") from None


def report_figure(report: EvaluationReport, style: str = "screen") -> Figure:
    """The figure of `plot_report`.

    Raises:
        NbenchError: there is no such style.
    """
    from matplotlib import rc_context

    from .notebook_figure import NotebookFigure

    _check_style(style)
    references = sorted(report.yardsticks, reverse=True)  # vqascore, the independent reference, before clip
    width, height = _WIDTHS[style]
    with rc_context(_settings(style)):
        figure = NotebookFigure(figsize=(width, 0.25 * height + height * len(references)), layout="constrained")
        figure.suptitle(
            f"{_plain(report.bench)}: {report.n_prompts} prompts, Best-of-{report.n_candidates}", color=_INK
        )
        for (left, right), reference in zip(
            figure.subplots(len(references), 2, squeeze=False), references, strict=True
        ):
            _agreement(left, report, reference)
            _selection(right, report, reference)
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _settings(style: str) -> dict[Any, Any]:
    """Those of the style; text stays text in vector formats, and the same figure gives the same bytes."""
    return _STYLE | STYLES[style] | {"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "nbench"}


def _agreement(axes: Axes, report: EvaluationReport, reference: str) -> None:
    axes.axhline(0, color=_FAINT, linewidth=1)
    _lines(axes, report, reference, "position", "spearman")
    axes.set_title(f"Agreement with {_plain(reference)} of the final image")
    axes.set_xlabel(f"position (0: noise, {report.steps}: finished)")
    axes.set_ylabel("Spearman within prompts")


def _selection(axes: Axes, report: EvaluationReport, reference: str) -> None:
    mark = report.yardsticks[reference]
    # curves rise from the lower line to the upper one: each label stands at the end away from them
    for value, label, dashes, x, align, offset in (
        (mark.final, f"chosen by {_plain(mark.chooser or '')} on the final images", (5, 2), 0, "left", (3, 4)),
        (mark.random, "a random candidate", (1, 1.5), 1, "right", (-3, -12)),
    ):
        if value is not None:
            axes.axhline(value, color=_FAINT, linewidth=1.4, linestyle=(0, dashes))
            axes.annotate(
                label, (x, value), offset, color=_FAINT, fontsize="small", ha=align,
                xycoords=("axes fraction", "data"), textcoords="offset points",
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1}, zorder=3,
            )  # fmt: skip
    _lines(axes, report, reference, "cost_steps", "best_of_n")
    axes.set_title(f"{_plain(reference)} of the candidate chosen early")
    axes.set_xlabel(f"denoiser steps per image chosen ({report.steps * report.n_candidates}: all)")
    axes.set_ylabel(f"mean {_plain(reference)}")
    axes.margins(y=0.12)


def _plain(name: str) -> str:
    """A name of a user for matplotlib, which reads `$` as mathematics and drops labels that begin with `_`."""
    return one_line(name).replace("$", r"\$").replace("_", "\u200b_", name.startswith("_"))


def _lines(axes: Axes, report: EvaluationReport, reference: str, x: str, y: str) -> None:
    from matplotlib import rcParams

    for index, model in enumerate(dict.fromkeys(row.model for row in report.rows)):
        rows = [
            row
            for row in report.rows
            if row.model == model and row.reference == reference and getattr(row, y) is not None
        ]
        points = [(getattr(row, x), getattr(row, y)) for row in rows]
        ends = [(getattr(row, x), *interval) for row in rows if (interval := getattr(row, f"{y}_ci"))]
        colour = _FAINT if model == "random" else _COLOURS[index % len(_COLOURS)]
        if ends:
            axes.fill_between(*np.transpose(ends), color=colour, alpha=0.15, linewidth=0)
        axes.plot(
            *zip(*points, strict=True) if points else ((), ()),
            color=colour,
            marker=_MARKERS[index % len(_MARKERS)],
            markersize=4.5 if len(points) <= 26 else 0,
            linewidth=rcParams["lines.linewidth"],
            label=_plain(model),
        )
