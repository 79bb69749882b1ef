"""The options of `nbench train`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from ..errors import NbenchError
from ..options import Option, Place, panel, words
from ..shards.signals import ACTIVATIONS

_training, _model, _run = panel("Training"), panel("Model"), panel("Run")

Input = Literal["preview", "latent", "x0", "x0_preview"]
RANKING = ("listwise", "lambdarank", "bradley-terry")
REPORTS = ("tensorboard", "wandb", "trackio")
"""Names of packages, and of their loggers in transformers."""
OBJECTIVES = ("contrast", "sigmoid", "distill", "reference", *RANKING)


@dataclass(frozen=True)
class FineTuneConfig:
    """One training run; without a base it begins from the frozen model that fits the data's latent space.

    Raises:
        NbenchError: a value is out of range, or two values exclude each other.
    """

    data: Place
    out: Path
    positions: Annotated[str, Option("Positions to train on: 20,30 or 20:30 or 0:50:5.")] = "20:30"
    start: Annotated[str | None, Option("CLIPModel to start from. [default: the one that fits the data]")] = None
    input: str = "preview"
    process: Literal["reverse", "forward"] = "reverse"
    curriculum: bool = False
    epochs: Annotated[int, _training("Passes over the data.")] = 5
    batch_size: Annotated[int, _training("Captions per batch.")] = 64
    learning_rate: Annotated[float, _training("Peak learning rate of AdamW.")] = 1e-4
    seed: Annotated[int, _training("Seed of the order of the data.")] = 0
    bf16: Annotated[bool, _run("Compute in bfloat16.")] = False
    save_every: Annotated[int | None, _run("Steps between checkpoints. [default: an epoch]", min=1)] = None
    bench: Annotated[
        Place | None, _run("Bench to evaluate on after each epoch, by recovered gain; the best checkpoint is kept.")
    ] = None
    bench_prompts: Annotated[int, _run("Prompts of --bench to evaluate on.", min=2)] = 100
    bench_reference: Annotated[str, _run("Reference of --bench whose gain counts.")] = "vqascore"
    patience: Annotated[int | None, _run("Stop after this many epochs without a better gain.", min=1)] = None
    report_to: Annotated[str, _run("Where steps are logged too: none, tensorboard, wandb, trackio.")] = "none"

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2 or not self.learning_rate > 0:
            raise NbenchError("training needs at least 1 epoch, batches of at least 2, and a learning rate above 0")
        if self.patience is not None and self.bench is None:
            raise NbenchError("--patience needs a --bench to evaluate on")
        for name in self.reports:
            if name not in REPORTS:
                raise NbenchError(f"--report-to {name} is not known: there are none, {', '.join(REPORTS)}")

    @property
    def reports(self) -> list[str]:
        """Where steps are logged too."""
        return [name for name in words(self.report_to) if name != "none"]

    @property
    def signal(self) -> str:
        """The recorded signal that the input is made of."""
        return "x0" if self.input.startswith("x0") else "latent"

    @property
    def ranks(self) -> bool:
        """Whether a loss compares the candidates of a prompt, so that they must share a batch and a position."""
        return False

    @property
    def needs_reference(self) -> str | None:
        """The reference that a loss needs."""
        return None

    @property
    def source(self) -> str | None:
        """Folder or Hub id of the model to start from; None: the one that fits the data."""
        return self.start

    @property
    def held_out(self) -> int:
        """One prompt in this many is held out, to validate on."""
        return 20


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
    base: Annotated[
        str | None,
        Option(
            "CLIP, SigLIP or other dual encoder to start from, or beside --start its frozen teacher. "
            "[default: the one that fits the data]"
        ),
    ] = None
    start: Annotated[str | None, Option("Model that was trained here, to train it further.")] = None
    targets: Annotated[
        Literal["image", "caption"],
        _training("Learn frozen CLIP's scores of the final image, or the caption it was generated from."),
    ] = "image"
    input: Annotated[Input, _model("Input of the image tower at a position.")] = "preview"
    noise_level: Annotated[
        Literal["none", "token", "adaln"],
        _model("How the model is told the noise level: not, added to all tokens, or in its layer norms."),
    ] = "none"
    deepen: Annotated[
        int,
        _model("Times as many layers in the image tower; those added begin as no change.", min=1),
    ] = 1
    tune: Annotated[
        Literal["vision", "projection", "lora", "all"],
        _model("What is trained: the image tower, its projection, LoRA adapters of the tower, or both towers."),
    ] = "vision"
    lora_rank: Annotated[int, _model("Rank of the LoRA adapters.", min=1)] = 8
    objective: Annotated[
        str,
        _training(
            "Losses, comma-separated, each with a weight if it is not 1 (distill:2): contrast (InfoNCE), sigmoid, "
            "distill (towards the frozen tower's embedding of the final image), reference, listwise, lambdarank, "
            "bradley-terry."
        ),
    ] = "contrast"
    reference: Annotated[
        str, _training("Reference score of the final images, for the objectives that rank or predict it.")
    ] = "vqascore"
    process: Annotated[
        Literal["reverse", "forward"],
        _training("Read latents as recorded, or add fresh noise to the finished latents in the loader."),
    ] = "reverse"
    curriculum: Annotated[bool, _training("Begin with the last positions and add earlier ones.")] = False
    micro_batch: Annotated[
        int | None,
        _run("Inputs that the image tower embeds at a time; all of a batch stay negatives. [default: all]", min=1),
    ] = None
    checkpointing: Annotated[bool, _run("Recompute activations of the image tower to save memory.")] = False
    compile: Annotated[bool, _run("Compile the image tower with torch.compile.", flag="--compile")] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        weights = self.objectives
        if self.process == "forward" and self.signal == "x0":
            raise NbenchError("--process forward has no x0 estimates: use --input latent or preview")
        if self.input in ("latent", "x0") and self.tune == "projection":
            raise NbenchError(f"--input {self.input} has a new first layer: use --tune vision, lora or all")
        if self.noise_level != "none" and self.tune == "projection":
            raise NbenchError("--noise-level has new layers in the tower: use --tune vision, lora or all")
        if self.deepen > 1 and self.tune == "projection":
            raise NbenchError("--deepen adds layers to the tower: use --tune vision, lora or all")
        if not weights:
            raise NbenchError(f"--objective names no loss: there are {', '.join(OBJECTIVES)}")

    @property
    def objectives(self) -> dict[str, float]:
        """The weight of each loss.

        Raises:
            NbenchError: an unknown loss, or a weight that is not a positive number.
        """
        weights = {}
        for part in words(self.objective):
            name, _, weight = part.partition(":")
            if name in weights:
                raise NbenchError(f"--objective names {name} twice: give it once, with its weight")
            try:
                weights[name] = float(weight or 1)
            except ValueError:
                weights[name] = 0.0
            if name not in OBJECTIVES or not 0 < weights[name] < float("inf"):
                raise NbenchError(f"--objective {part} is not understood: write LOSS:WEIGHT of {', '.join(OBJECTIVES)}")
        return weights

    @property
    def ranks(self) -> bool:
        return any(name in RANKING for name in self.objectives)

    @property
    def needs_reference(self) -> str | None:
        return self.reference if self.ranks or "reference" in self.objectives else None

    @property
    def source(self) -> str | None:
        return self.start or self.base


@dataclass(frozen=True)
class LatentCLIPConfig(TrainConfig):
    """One training run of a NoisyCLIP that reads latents and is told their noise level: one model for all positions."""

    out: Annotated[Path, Option("Output folder of the model; `nbench evaluate --model` takes it.")] = Path(
        "data/latentclip"
    )
    positions: Annotated[str, Option("Positions to train on: 20,30 or 20:30 or 0:50:5.")] = "0:50"
    input: Annotated[Input, _model("Input of the image tower at a position.")] = "latent"
    noise_level: Annotated[
        Literal["none", "token", "adaln"],
        _model("How the model is told the noise level: not, added to all tokens, or in its layer norms."),
    ] = "token"
    objective: Annotated[str, _training("Losses, as of `nbench train noisyclip`.")] = "contrast,distill:2"
    learning_rate: Annotated[float, _training("Peak learning rate of AdamW.")] = 5e-4


@dataclass(frozen=True)
class X0VQAConfig(FineTuneConfig):
    """One training run, on previews of the x0 estimates of `positions`."""

    input: str = "x0_preview"

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
class ProbeTraining(FineTuneConfig):
    """One training run of a probe, on the activations of `layer`."""

    input: str = "activations"

    data: Annotated[Place, Option("Bench with activations and references: folder, URL or Hub id.")]
    layer: Annotated[str, Option("Layer of the denoiser, as in --signals activations:LAYER of the build.")] = field(
        kw_only=True
    )
    out: Annotated[Path, Option("Output folder; `nbench evaluate --model probe:FOLDER` takes it.")] = Path("data/probe")
    positions: Annotated[str, Option("Positions to train on: 5,10 or 0:50:5.")] = "5,10"
    reference: Annotated[str, Option("Reference to predict: clip, vqascore, ...")] = "vqascore"
    start: str | None = None
    epochs: Annotated[int, _training("Passes over the data.")] = 20
    batch_size: Annotated[int, _training("Candidates per batch; those of a prompt stay together.")] = 64
    learning_rate: Annotated[float, _training("Peak learning rate of AdamW.")] = 3e-4
    hidden: Annotated[int, _training("Width of the hidden layer.", min=1)] = 64
    objective: Annotated[
        Literal["differences", "listwise", "lambdarank", "bradley-terry"],
        _training("Learn the candidates' differences in the reference (squared error), or their order."),
    ] = "differences"
    seed: Annotated[int, _training("Seed of the initial weights and of the order of the data.")] = 0

    @property
    def signal(self) -> str:
        return f"{ACTIVATIONS}{self.layer}"

    @property
    def ranks(self) -> bool:
        return True

    @property
    def needs_reference(self) -> str | None:
        return self.reference

    @property
    def held_out(self) -> int:
        return 10  # the kept epoch depends on them


@dataclass(frozen=True)
class StackTraining:
    """One training of a stack: weights for the scores of several models at several positions."""

    data: Annotated[Place, Option("Bench with references, and the signal that the models read: folder, URL or Hub id.")]
    models: Annotated[
        tuple[str, ...],
        Option(
            "Scorers, comma-separated, as of `nbench evaluate --model`; all read latents, or all x0.",
            text=list[str],
            parse=words,
        ),
    ]
    positions: Annotated[str, Option("Positions whose scores add up: 3,5,8 or 2:8:2.")]
    out: Annotated[Path, Option("Output folder; `nbench evaluate --model stack:FOLDER` takes it.")] = Path("data/stack")
    reference: Annotated[str, Option("Reference to predict: clip, vqascore, ...")] = "vqascore"
    folds: Annotated[int, _training("Cross-validation folds over prompts, for the figures in training.json.")] = 5
    seed: Annotated[int, _training("Seed of the folds.")] = 0


@dataclass(frozen=True)
class NoisePriorConfig(TrainConfig):
    """One training run of a dual encoder that reads the initial noise alone."""

    out: Annotated[Path, Option("Output folder of the model; `nbench evaluate --model` takes it.")] = Path(
        "data/noise-prior"
    )
    positions: Annotated[str, Option("Positions to train on; 0 is the initial noise.")] = "0"
    input: Annotated[Input, _model("Input of the image tower at a position.")] = "latent"
    objective: Annotated[str, _training("Losses, as of `nbench train noisyclip`.")] = "listwise"
