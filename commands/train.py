"""The commands that train scorers."""

from __future__ import annotations

import typer

from ..printing import echo
from ..training.config import ProbeTraining, TrainConfig, X0VQAConfig
from .configured import Group, command

train_app = typer.Typer(cls=Group, no_args_is_help=True, help="Train a scorer.")


@command(train_app)
def noisyclip(config: TrainConfig) -> None:
    """Fine-tune CLIP's image tower on previews of noisy latents, with corrupted captions as hard negatives.

    `nbench train noisyclip --data data/ncc --positions 20:30 --out data/noisyclip`
    """
    from ..pipelines.quiet import quieten_transformers
    from ..training.noisyclip import train

    quieten_transformers()
    echo("written:", train(config))


@command(train_app, "x0-vqa")
def x0_vqa(config: X0VQAConfig) -> None:
    """Fine-tune a VQA model on previews of x0 estimates, to give the answers it gives for the finished image.

    `nbench build ncc --positions 1:13 --signals latent,x0,image --out data/ncc-x0`

    `nbench train x0-vqa --data data/ncc-x0 --out data/x0-vqa`

    `nbench evaluate --model x0-preview:vqascore:data/x0-vqa --bench data/bench-x0 --latents 1:13`
    """
    from ..pipelines.quiet import quieten_transformers
    from ..training.x0vqa import train

    quieten_transformers()
    echo("written:", train(config))


@command(train_app)
def probe(config: ProbeTraining) -> None:
    """Train a small head that predicts a reference from the denoiser's activations.

    `nbench train probe --data data/bench --layer transformer_blocks.3 --positions 5,10 --out data/probe`
    """
    from ..training.probe import train_probe

    echo("written:", train_probe(config))
