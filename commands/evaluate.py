"""The command that scores models on a bench."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..benchmarks.evaluate_config import EvaluateConfig
from ..console import print_json, print_table, say
from ..jobs.options import EngineOptions
from ..options import Option
from .configured import AsJson, Wide, command
from .jobs import left_to_others
from .panels import MEASURE
from .yaml_options import ConfigFile

evaluate_app = typer.Typer()


@command(evaluate_app, panel=MEASURE)
def evaluate(
    config: EvaluateConfig,
    workers: EngineOptions,
    options: ConfigFile = None,
    plot: Annotated[Path | None, Option("File for a plot: .png, .pdf or .svg.", panel="Results")] = None,
    plot_style: Annotated[str, Option("Style of the plot: screen or paper.", panel="Results")] = "screen",
    wide: Wide = False,
    as_json: AsJson = False,
) -> None:
    """Score models at several positions, and measure how well they predict the references of the finished images.

    Existing scores are reused, and an interrupted run resumes.

    `nbench evaluate --model clip --model noisyclip --latents 0:50:5 --plot results/early.png`

    `nbench evaluate --model noisyclip --bench data/small --latents 20,30 --json`

    `nbench evaluate --model x0-clip --captions --retrieval --time-steps 10`
    """
    from ..benchmarks.evaluate import evaluate, score_share
    from ..benchmarks.results.plot import check_plot, plot_report

    if workers.share is not None:
        left = score_share(config, workers, progress=True)
        rest = left_to_others(left, "scored")
        say(f"{rest}; at the end, the same command without --rank measures them")
        return
    if plot:
        check_plot(plot, plot_style)
    report = evaluate(config, progress=True, workers=workers)
    if plot:
        plot_report(report, plot, plot_style)
    if as_json:
        print_json(report.to_json())
        return
    from ..benchmarks.results.learnt import lessons
    from ..benchmarks.results.terminal import report_table

    print_table(report_table(report, wide), wide)
    for lesson in lessons(report):
        say(lesson)
    say("written:", *report.files, *([plot] if plot else []))
