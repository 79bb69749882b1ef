"""The commands that list, show and check scorers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..console import print_table, say, stacked
from ..options import Argument, Fields, Option
from ..scorers.placement import Placement
from .configured import AsJson, Group, command

models_app = typer.Typer(
    cls=Group, invoke_without_command=True, help="List scorers, show one, check one, or write a new one."
)


@models_app.callback()
def models(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list and nothing else.")] = False,
) -> None:
    """List the available scorers (higher is better for all), show one, or check one.

    `nbench models --json`

    `nbench models show noisyclip`
    """
    if context.invoked_subcommand is not None:
        return
    import json

    from ..scorers.listing import list_models, models_tables

    rows = list_models()
    if as_json:
        print(json.dumps(rows))
        return

    print_table(stacked(models_tables(rows)))


@command(models_app)
def show(
    name: Annotated[str, Argument("Name as in `nbench models`; for KIND:MODEL the kind is enough.")],
    as_json: AsJson = False,
) -> None:
    """Show one scorer: what it reads, its weights, range, paper and package.

    `nbench models show noisyclip`
    """
    import json

    from ..scorers.listing import find_model

    row = find_model(name)
    if as_json:
        print(json.dumps(row))
        return
    from rich.table import Table

    grid = Table.grid("column", "value", padding=(0, 2))
    for column, value in row.items():
        if value:
            grid.add_row(column, value)
    print_table(grid)


@command(models_app)
def check(
    model: Annotated[str, Argument("Scorer: a name, folder, Hub id, MODULE:CLASS or FILE.py:CLASS.")],
    bench: Annotated[
        str | None, Option("Bench; its first rows are scored. [default: random rows like the embedded world's]")
    ] = None,
    position: Annotated[int | None, Option("Position in the bench. [default: the middle stored position]")] = None,
    *,
    placement: Annotated[Placement, Fields(made_by=Placement.best)],
) -> None:
    """Run a scorer on a small batch and check shapes, NaN, norms, order and batch size; exit code 1 on a problem.

    `nbench models check noisyclip`

    `nbench models check mine.py:Scorer --bench data/small`
    """
    from ..benchmarks.scoring.check_model import check_model

    scorer, problems = check_model(model, bench, position, placement)
    for line in problems:
        say(f"{scorer.name}: {line}")
    if problems:
        raise typer.Exit(1)
    say(f"{scorer.name}: reads {scorer.reads}, nothing wrong")


@command(models_app)
def new(
    file: Annotated[Path, Argument("Python file to write.")],
    kind: Annotated[
        str, Option("twin: embeds prompts and inputs apart, each once; pair: scores them together.")
    ] = "pair",
    reads: Annotated[str, Option("Input, as in docs/scorers.md: latent, preview, image, x0, cfg_gap, ...")] = "preview",
) -> None:
    """Write a working scorer to start from.

    `nbench models new mine.py --kind twin --reads latent`
    """
    from ..scorers.environments.new import new_scorer

    path = new_scorer(file, kind, reads)
    say(f"written: {path}")
    say(f"check it: nbench models check {path}:Mine")
    say(f"use it:   --model {path}:Mine, or --model uv:{path}:Mine in an environment of its own")
