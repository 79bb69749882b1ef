"""The command that writes results as a web page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..benchmarks.results.place import all_local
from ..console import counted, say
from ..options import Argument, Option
from .configured import command
from .panels import RESULTS

report_app = typer.Typer()


@command(report_app, panel=RESULTS)
def report(
    results: Annotated[
        list[Path] | None,
        Argument(
            "Result files, folders of them or URLs, all of one bench. [default: results]",
            parse=all_local,
        ),
    ] = None,
    bench: Annotated[
        str | None, Option("Bench with the prompts and images: folder, URL or Hub id. [default: data/<its name>]")
    ] = None,
    out: Annotated[Path | None, Option("Folder for index.html. [default: report]")] = None,
    prompts: Annotated[int, Option("Maximum number of prompts in the trajectory viewer; 0: no viewer.")] = 40,
    space: Annotated[Path | None, Option("Folder for a static Hugging Face Space.")] = None,
) -> None:
    """Write one self-contained page: leaderboard, plots, and a viewer of trajectories and each scorer's selection.

    `nbench report results/small --bench data/small --out report`

    `nbench report results/small/*.json --space space`
    """
    from ..benchmarks.report.inputs import bench_of, gather
    from ..benchmarks.report.page import make_page, write_page, write_space
    from ..errors import check_range

    check_range("--prompts", prompts, 0)
    inputs = gather(results or [Path("results")])
    opened = bench_of(inputs, bench) if prompts else None
    page = make_page(inputs, opened, prompts)
    paths = [write_page(out or Path("report"), page)] if out or not space else []
    if space:
        paths.append(write_space(space, page, inputs.first.bench))
    for reason in inputs.left_out:
        say(f"left out: {reason}", error=True)
    if prompts and opened is None:
        say(f"no trajectories: bench {inputs.first.bench} is not here; name it with --bench", error=True)
    models, size = counted(len(inputs.results), "model"), f"{len(page.text.encode()) / 1e6:.1f} MB"
    say(f"written: {' '.join(map(str, paths))} ({models}, {page.shown} of {page.of} prompts, {size})")
