"""The commands that train scorers."""

from __future__ import annotations

import typer

from ..console import say
from ..training.config import LatentCLIPConfig, NoisePriorConfig, ProbeTraining, StackTraining, TrainConfig, X0VQAConfig
from .configured import Group, command
from .yaml_options import ConfigFile

train_app = typer.Typer(cls=Group, no_args_is_help=True, help="Train a scorer.")


@command(train_app)
def noisyclip(config: TrainConfig, options: ConfigFile = None) -> None:
    """Fine-tune a dual encoder's image tower on noisy latents, with corrupted captions as hard negatives.

    `nbench train noisyclip --data data/ncc --positions 20:30 --out data/noisyclip`

    `torchrun --nproc-per-node 4 -m nbench train noisyclip --base google/siglip-base-patch16-224 --tune lora`
    """
    from ..pipelines.quiet import quieten_transformers
    from ..training.noisyclip import train

    quieten_transformers()
    say("written:", train(config))


@command(train_app)
def latentclip(config: LatentCLIPConfig, options: ConfigFile = None) -> None:
    """Train a dual encoder that reads latents and is told their noise level, one for all positions.

    `nbench train latentclip --data data/ncc --process forward --epochs 50 --out data/latentclip`
    """
    from ..pipelines.quiet import quieten_transformers
    from ..training.noisyclip import train

    quieten_transformers()
    say("written:", train(config))


@command(train_app, "x0-vqa")
def x0_vqa(config: X0VQAConfig, options: ConfigFile = None) -> None:
    """Fine-tune a VQA model on previews of x0 estimates, to give the answers it gives for the finished image.

    `nbench build ncc --positions 1:13 --signals latent,x0,image --out data/ncc-x0`

    `nbench train x0-vqa --data data/ncc-x0 --out data/x0-vqa`

    `nbench evaluate --model x0-preview:vqascore:data/x0-vqa --bench data/bench-x0 --latents 1:13`
    """
    from ..pipelines.quiet import quieten_transformers
    from ..training.x0vqa import train

    quieten_transformers()
    say("written:", train(config))


@command(train_app)
def probe(config: ProbeTraining, options: ConfigFile = None) -> None:
    """Train a small head that predicts a reference from the denoiser's activations.

    `nbench train probe --data data/bench --layer transformer_blocks.3 --positions 5,10 --out data/probe`
    """
    from ..pipelines.quiet import quieten_transformers
    from ..training.probe import train

    quieten_transformers()
    say("written:", train(config))


@command(train_app)
def stack(config: StackTraining, options: ConfigFile = None) -> None:
    """Weigh the scores of several scorers at several positions by how they foretell a reference.

    `nbench train stack --data data/bench --models x0-clip,x0-image --positions 3,5,8 --out data/stack`

    `nbench evaluate --bench data/bench --model stack:data/stack --latents 3:10`
    """
    from ..training.stack import train_stack

    say("written:", train_stack(config))


@command(train_app, "noise-prior")
def noise_prior(config: NoisePriorConfig, options: ConfigFile = None) -> None:
    """Train a dual encoder that scores a prompt and the initial noise, before any denoiser call.

    `nbench train noise-prior --data data/ncc-six --out data/noise-prior`
    """
    from ..pipelines.quiet import quieten_transformers
    from ..training.noisyclip import train

    quieten_transformers()
    say("written:", train(config))
