"""The commands that train scorers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .models import probe

train_app = typer.Typer(no_args_is_help=True, help="Train a scorer.")
train_app.command()(probe)


@train_app.command()
def noisyclip(
    data: Annotated[Path, typer.Option(help="An NCC, as `nbench build ncc` makes it.")] = Path("data/ncc"),
    out: Annotated[Path, typer.Option(help="Folder for the model; evaluate takes it as --model.")] = Path(
        "data/noisyclip"
    ),
    positions: Annotated[str, typer.Option(help="Positions to train on: 20,30 or 20:30 or 0:50:5.")] = "20:30",
    start: Annotated[str | None, typer.Option(help="CLIPModel to start from. [default: what fits the data]")] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the data.")] = 5,
    batch_size: Annotated[int, typer.Option(help="Captions at a time.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="Of AdamW, at its highest.")] = 1e-4,
    targets: Annotated[
        Literal["image", "caption"],
        typer.Option(help="Match captions as far as the final image shows them, or the caption it was made for."),
    ] = "image",
    seed: Annotated[int, typer.Option(help="Decides the order of the data.")] = 0,
) -> None:
    """Fine-tune CLIP's image tower on previews of noisy latents, with corrupted captions as extra negatives.

    `nbench train noisyclip --data data/ncc --positions 20:30 --out data/noisyclip`
    """
    from ..pipelines.quiet import quieten_transformers
    from ..training.noisyclip import TrainConfig, train

    quieten_transformers()
    config = TrainConfig(
        data=data,
        out=out,
        positions=positions,
        start=start,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        targets=targets,
        seed=seed,
    )
    print("written:", train(config))


@train_app.command(name="x0-vqa")
def x0_vqa(
    data: Annotated[Path, typer.Option(help="An NCC with x0 estimates (--signals latent,x0,image).")],
    out: Annotated[Path, typer.Option(help="Folder for the model.")] = Path("data/x0-vqa"),
    positions: Annotated[str, typer.Option(help="Positions to train on: 1:13 or 5,10.")] = "1:13",
    start: Annotated[
        str | None, typer.Option(help="BlipForQuestionAnswering to start from. [default: what fits the data]")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the data.")] = 6,
    batch_size: Annotated[int, typer.Option(help="Captions at a time.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="Of AdamW, at its highest.")] = 3e-4,
    seed: Annotated[int, typer.Option(help="Decides the order of the data.")] = 0,
) -> None:
    """Fine-tune a VQA model on previews of x0 estimates, towards what it says of the finished image.

    `nbench build ncc --positions 1:13 --signals latent,x0,image --out data/ncc-x0`

    `nbench train x0-vqa --data data/ncc-x0 --out data/x0-vqa`

    `nbench evaluate --model x0-preview:vqascore:data/x0-vqa --bench data/bench-x0 --latents 1:13`
    """
    from ..pipelines.quiet import quieten_transformers
    from ..training.x0vqa import X0VQAConfig, train

    quieten_transformers()
    print("written:", train(X0VQAConfig(data, out, positions, start, epochs, batch_size, learning_rate, seed)))
