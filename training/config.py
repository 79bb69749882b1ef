"""The options of `nbench train`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from ..errors import NbenchError
from ..options import Option, Place, panel

_training = panel("Training")


@dataclass(frozen=True)
class FineTuneConfig:
    """One training run; without `start` it begins from the frozen model that fits the data's latent space.

    Raises:
        NbenchError: a value is out of range.
    """

    reads: ClassVar[Literal["preview", "x0_preview"]] = "preview"
    """The model's input at a position: the preview of the latent, or of the x0 estimate."""

    data: Place
    out: Path
    positions: Annotated[str, Option("Positions to train on: 20,30 or 20:30 or 0:50:5.")] = "20:30"
    start: Annotated[str | None, Option("CLIPModel to start from. [default: the one that fits the data]")] = None
    epochs: Annotated[int, _training("Passes over the data.")] = 5
    batch_size: Annotated[int, _training("Captions per batch.")] = 64
    learning_rate: Annotated[float, _training("Peak learning rate of AdamW.")] = 1e-4
    seed: Annotated[int, _training("Seed of the order of the data.")] = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2 or not self.learning_rate > 0:
            raise NbenchError("training needs at least 1 epoch, batches of at least 2, and a learning rate above 0")


@dataclass(frozen=True)
class TrainConfig(FineTuneConfig):
    """One training run of NoisyCLIP.

    `targets` are what noisy latents learn to match: "caption", the caption they were generated from, as in the paper;
    or "image", the frozen CLIP's scores of all captions for the final image, since many images do not match their
    caption.
    """

    data: Annotated[Place, Option("Training data set, as `nbench build ncc` makes it: folder, URL or Hub id.")] = Path(
        "data/ncc"
    )
    out: Annotated[Path, Option("Output folder of the model; `nbench evaluate --model` takes it.")] = Path(
        "data/noisyclip"
    )
    targets: Annotated[
        Literal["image", "caption"],
        _training("Learn frozen CLIP's scores of the final image, or the caption it was generated from."),
    ] = "image"


@dataclass(frozen=True)
class X0VQAConfig(FineTuneConfig):
    """One training run, on previews of the x0 estimates of `positions`."""

    reads: ClassVar[Literal["preview", "x0_preview"]] = "x0_preview"

    data: Annotated[
        Place, Option("Training data set with x0 estimates (--signals latent,x0,image): folder, URL or Hub id.")
    ]
    out: Annotated[Path, Option("Output folder of the model.")] = Path("data/x0-vqa")
    positions: Annotated[str, Option("Positions to train on: 1:13 or 5,10.")] = "1:13"
    start: Annotated[
        str | None, Option("BlipForQuestionAnswering to start from. [default: the one that fits the data]")
    ] = None
    epochs: Annotated[int, _training("Passes over the data.")] = 6
    learning_rate: Annotated[float, _training("Peak learning rate of AdamW.")] = 3e-4


@dataclass(frozen=True)
class ProbeTraining:
    """One training run of a probe; all rows are held in memory, D numbers per position."""

    data: Annotated[Place, Option("Bench with activations and references: folder, URL or Hub id.")]
    layer: Annotated[str, Option("Layer of the denoiser, as in --signals activations:LAYER of the build.")]
    out: Annotated[Path, Option("Output folder; `nbench evaluate --model probe:FOLDER` takes it.")] = Path("data/probe")
    positions: Annotated[str, Option("Positions to train on: 5,10 or 0:50:5.")] = "5,10"
    reference: Annotated[str, Option("Reference to predict: clip, vqascore, ...")] = "vqascore"
    epochs: Annotated[int, _training("Passes over the data.")] = 100
    learning_rate: Annotated[float, _training("Learning rate of AdamW.")] = 1e-3
    hidden: Annotated[int, _training("Width of the hidden layer.")] = 64
    seed: Annotated[int, _training("Seed of the initial weights and of the order of the data.")] = 0
