"""An evaluation as one picture: agreement by position, and Best-of-N by cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import NbenchError, one_line, reason_of
from ...shards.atomic import atomic_write
from .result_file import EvaluationReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
    "legend.frameon": False,
    "text.parse_math": False,  # a dollar sign in a name is no formula
}


def plot_report(report: EvaluationReport, path: Path) -> None:
    """Write a PNG with two panels per reference: agreement by position, and Best-of-N by cost.

    Raises:
        NbenchError: `path` cannot be written.
    """
    from io import BytesIO

    from matplotlib import rc_context
    from matplotlib.figure import Figure

    references = sorted(report.yardsticks, reverse=True)  # vqascore, the independent reference, before clip
    with rc_context(_STYLE):
        figure = Figure(figsize=(11, 0.9 + 3.6 * len(references)), layout="constrained")
        figure.suptitle(
            f"{one_line(report.bench)}: {report.n_prompts} prompts, Best-of-{report.n_candidates}", color=_INK
        )
        for (left, right), reference in zip(
            figure.subplots(len(references), 2, squeeze=False), references, strict=True
        ):
            _agreement(left, report, reference)
            _selection(right, report, reference)
        image = BytesIO()
        figure.savefig(image, format="png", dpi=160)
    try:
        atomic_write(path, image.getvalue())
    except OSError as error:
        raise NbenchError(f"cannot write {path}: {reason_of(error)}") from None


def _agreement(axes: Axes, report: EvaluationReport, reference: str) -> None:
    axes.axhline(0, color=_FAINT, linewidth=1)
    _lines(axes, report, reference, "position", "spearman")
    axes.set_title(f"Agreement with {one_line(reference)} of the final image")
    axes.set_xlabel(f"position in the trajectory (0: noise, {report.steps}: finished)")
    axes.set_ylabel("Spearman within prompts")
    axes.legend(loc="upper left")


def _selection(axes: Axes, report: EvaluationReport, reference: str) -> None:
    mark = report.yardsticks[reference]
    # curves rise from the lower line to the upper one: each label stands at the end away from them
    for value, label, dashes, x, align, offset in (
        (mark.final, f"chosen by {one_line(mark.chooser)} on the final images", (5, 2), 0, "left", (3, 4)),
        (mark.random, "a random candidate", (1, 1.5), 1, "right", (-3, -12)),
    ):
        if value is not None:
            axes.axhline(value, color=_FAINT, linewidth=1.4, linestyle=(0, dashes))
            axes.annotate(
                label, (x, value), offset, color=_FAINT, fontsize=9, ha=align,
                xycoords=("axes fraction", "data"), textcoords="offset points",
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1}, zorder=3,
            )  # fmt: skip
    _lines(axes, report, reference, "cost_steps", "best_of_n")
    axes.set_title(f"{one_line(reference)} of the candidate chosen early")
    axes.set_xlabel(
        f"denoiser steps for one chosen image ({report.steps * report.n_candidates}: all candidates finished)"
    )
    axes.set_ylabel(f"mean {one_line(reference)}")
    axes.margins(y=0.12)


def _lines(axes: Axes, report: EvaluationReport, reference: str, x: str, y: str) -> None:
    for index, model in enumerate(dict.fromkeys(row.model for row in report.rows)):
        points = [
            (getattr(row, x), getattr(row, y))
            for row in report.rows
            if row.model == model and row.reference == reference and getattr(row, y) is not None
        ]
        axes.plot(
            *zip(*points, strict=True) if points else ((), ()),
            color=_FAINT if model == "random" else _COLOURS[index % len(_COLOURS)],
            marker=_MARKERS[index % len(_MARKERS)],
            markersize=4.5 if len(points) <= 26 else 0,
            linewidth=2,
            label=_label(model),
        )


def _label(model: str) -> str:
    """The legend's name of a model; matplotlib leaves out names that begin with an underscore."""
    return f" {one_line(model)}" if model.startswith("_") else one_line(model)
