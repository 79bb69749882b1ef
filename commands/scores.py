"""The command of the command line that reads score tables alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

scores_app = typer.Typer()


@scores_app.command(no_args_is_help=True)
def metrics(
    scores: Annotated[Path, typer.Argument(help="Parquet, CSV or JSONL: prompt_id, candidate, position, score.")],
    reference: Annotated[Path, typer.Argument(help="Table: prompt_id, candidate, score of the final image.")],
    calls_per_position: Annotated[
        int, typer.Option(min=1, help="Denoiser calls that going from one position to the next costs.")
    ] = 1,
    final_position: Annotated[
        int | None, typer.Option(min=1, help="Position of the finished image. [default: the last one there is]")
    ] = None,
    misaligned_below: Annotated[
        float | None, typer.Option(help="Reference below which a candidate is misaligned. [default: the median]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Measure scores of any experiment against a reference, from two tables alone: no bench, no model.

    `nbench metrics scores.parquet reference.parquet`

    `nbench metrics results/small/noisyclip.parquet data/small/scores/vqascore.parquet --json`
    """
    from ..benchmarks.table_metrics import MetricsConfig, measure_tables

    config = MetricsConfig(scores, reference, calls_per_position, final_position, misaligned_below)
    found = measure_tables(config)
    if as_json:
        print(found.to_json())
        return
    from ..benchmarks.results.terminal import print_wide, report_table

    print_wide(report_table(found.report))
    print(found.yardstick)
