"""Builds a data set with its references; without references, nothing here imports torch."""

from __future__ import annotations

from ..builders.build import BuildReport
from ..builders.build import build as build_trajectories
from ..builders.config import BuildConfig
from ..builders.images.given import HUMAN
from ..console import say
from ..jobs.options import EngineOptions
from ..shards.reader import Bench, open_bench
from ..shards.references import how_to_add


def build(config: BuildConfig, progress: bool = True, workers: EngineOptions | None = None) -> BuildReport:
    """Build the data set of `config`, or finish it; on return it is complete, with its references.

    `workers` say who makes it. If they make only a part, it is neither complete nor has references.

    Raises:
        NbenchError: a file, folder, pipeline, reference or setting that the user must fix.
    """
    last = None
    if config.kind == "genai-bench" and config.references != ():
        from .scoring.references import References

        last = References(config, progress)
    report = build_trajectories(config, progress, last, how=workers.run() if workers else None)
    if workers is not None and workers.share is not None:
        return report
    if (config.retry_failed or config.extend) and progress:
        _report_incomplete(open_bench(config.folder))
    return report


def _report_incomplete(bench: Bench) -> None:
    """Name the references of the user's own that lack scores of rows which were added or made again."""
    from .scoring.references import lacking

    for name, table in bench.references.items():
        if name != HUMAN and lacking(bench, table)[0]:
            way_out = how_to_add(bench, f"{name}=SCORER")
            say(f"reference {name} lacks scores of new rows, which {way_out} adds", error=True)
