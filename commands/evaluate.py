"""The command that scores models on a bench."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..benchmarks.evaluate_config import EvaluateConfig
from ..jobs.options import EngineOptions
from ..options import Option
from .configured import AsJson, command
from .panels import MEASURE

evaluate_app = typer.Typer()


@command(evaluate_app, panel=MEASURE)
def evaluate(
    config: EvaluateConfig,
    workers: EngineOptions,
    plot: Annotated[Path | None, Option("PNG file for a plot.", panel="Results")] = None,
    as_json: AsJson = False,
) -> None:
    """Score models at several positions, and measure how well they predict the references of the finished images.

    Existing scores are reused, and an interrupted run resumes.

    `nbench evaluate --model clip --model noisyclip --latents 0:50:5 --plot results/early.png`

    `nbench evaluate --model noisyclip --bench data/small --latents 20,30 --json`

    `nbench evaluate --model x0-clip --captions --retrieval --time-steps 10`
    """
    from ..benchmarks.evaluate import evaluate, score_share

    if workers.share is not None:
        left = score_share(config, workers, progress=True)
        rest = f"{left} shards are left to others" if left else "all shards are scored"
        print(f"{rest}; at the end, the same command without --rank measures them")
        return
    report = evaluate(config, progress=True, workers=workers)
    if plot:
        from ..benchmarks.results.plot import plot_report

        plot_report(report, plot)
    if as_json:
        print(report.to_json())
        return
    from ..benchmarks.results.terminal import print_wide, report_table

    print_wide(report_table(report))
    print("written:", *report.files, *([plot] if plot else []))
