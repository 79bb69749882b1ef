"""The command that measures score tables without a bench."""

from __future__ import annotations

import typer

from ..benchmarks.table_metrics_config import MetricsConfig
from ..console import print_json, print_table, say
from .configured import AsJson, Wide, command
from .panels import MEASURE

scores_app = typer.Typer()


@command(scores_app, panel=MEASURE, no_args_is_help=True)
def metrics(config: MetricsConfig, wide: Wide = False, as_json: AsJson = False) -> None:
    """Measure scores of any experiment against a reference, from two tables: no bench or model is needed.

    `nbench metrics scores.parquet reference.parquet`

    `nbench metrics results/small/noisyclip.parquet data/small/scores/vqascore.parquet --json`
    """
    from ..benchmarks.table_metrics import measure_tables

    result = measure_tables(config)
    if as_json:
        print_json(result.to_json())
        return
    from ..benchmarks.results.terminal import report_table

    print_table(report_table(result.report, wide), wide)
    say(result.yardstick)
