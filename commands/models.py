"""The commands of the command line that show and check scorers, and train a probe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

models_app = typer.Typer(invoke_without_command=True, help="List scorers, show one, or check one.")


@models_app.callback()
def models(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list and nothing else.")] = False,
) -> None:
    """List the scorers there are; higher is better for all of them. Or show or check one.

    `nbench models --json`

    `nbench models show noisyclip`
    """
    if context.invoked_subcommand is not None:
        return
    import json

    from ..scorers.listing import list_models, models_tables

    found = list_models()
    if as_json:
        print(json.dumps(found))
        return
    from rich.console import Console

    named, families = models_tables(found)
    Console().print(named, "", families)


@models_app.command()
def show(
    name: Annotated[str, typer.Argument(help="As `nbench models` lists it; of KIND:MODEL the kind is enough.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """All there is to say of one scorer: what it reads, its weights, range, paper and package.

    `nbench models show noisyclip`
    """
    import json

    from ..scorers.listing import find_model

    found = find_model(name)
    if as_json:
        print(json.dumps(found))
        return
    from rich.console import Console
    from rich.table import Table

    grid = Table.grid("column", "value", padding=(0, 2))
    for column, value in found.items():
        if value:
            grid.add_row(column, value)
    Console().print(grid)


@models_app.command()
def check(
    model: Annotated[str, typer.Argument(help="A name, folder, Hub id, MODULE:CLASS or FILE.py:CLASS.")],
    bench: Annotated[
        str | None, typer.Option(help="Whose first rows it is run on. [default: random rows, as of the embedded world]")
    ] = None,
    position: Annotated[int | None, typer.Option(help="Of the bench. [default: the middle one that is stored]")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ... [default: the GPU where there is one]")] = None,
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float32",
) -> None:
    """Run a scorer on a small batch and say what is wrong with it: shapes, NaN, norms, order, batch size; then exit 1.

    `nbench models check noisyclip`

    `nbench models check mine.py:Scorer --bench data/small`
    """
    from ..benchmarks.scoring.check_model import check_model
    from ..pipelines.quiet import quieten_transformers
    from ..scorers.placement import Placement

    quieten_transformers()
    scorer, wrong = check_model(model, bench, position, Placement.best(device, dtype))
    for line in wrong:
        print(f"{scorer.name}: {line}")
    if wrong:
        raise typer.Exit(1)
    print(f"{scorer.name}: reads {scorer.reads}, nothing wrong")


def probe(
    data: Annotated[str, typer.Option(help="A bench with activations and references: folder, URL or Hub id.")],
    layer: Annotated[str, typer.Option(help="Of the denoiser, as its build was told: --signals activations:LAYER.")],
    out: Annotated[Path, typer.Option(help="Folder; evaluate takes it as --model probe:FOLDER.")] = Path("data/probe"),
    positions: Annotated[str, typer.Option(help="To train on: 5,10 or 0:50:5.")] = "5,10",
    reference: Annotated[str, typer.Option(help="What it learns to foretell: clip, vqascore, ...")] = "vqascore",
    epochs: Annotated[int, typer.Option(help="Passes over the data.")] = 100,
    learning_rate: Annotated[float, typer.Option(help="Of AdamW.")] = 1e-3,
    hidden: Annotated[int, typer.Option(help="Width of the hidden layer.")] = 64,
    seed: Annotated[int, typer.Option(help="Decides the start and the order of the data.")] = 0,
) -> None:
    """Train a small head that foretells a reference from the denoiser's activations.

    `nbench train probe --data data/bench --layer transformer_blocks.3 --positions 5,10 --out data/probe`
    """
    from ..training.probe import ProbeTraining, train_probe

    config = ProbeTraining(data, layer, out, positions, reference, epochs, learning_rate, hidden, seed)
    print("written:", train_probe(config))
