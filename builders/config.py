"""The configuration of a build."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from ..errors import MOST_CANDIDATES, MOST_STEPS, NbenchError, check_range
from ..options import Argument, Option, Place, panel, words
from ..pipelines.options import PipelineOptions
from ..shards.encoding import Int8Encoding, check_int8_encoding
from ..shards.positions import parse_positions
from ..shards.signals import DEFAULT_SIGNALS, normal_signals
from ..shards.storage import is_same
from .prompts.request import SOURCES, WORLD, PromptRequest, PromptSelection, prompt_option

DTYPES = ("float32", "float16", "bfloat16")
DEFAULT_STEPS = 50


@dataclass(frozen=True)
class Kind:
    """One of the two kinds of data set that a build makes."""

    name: Literal["noisy-genai-bench", "noisy-conceptual-captions"]
    split: Literal["test", "train"]
    out: Path
    candidates: int


KINDS = {
    "genai-bench": Kind("noisy-genai-bench", "test", Path("data/noisy-genai-bench"), candidates=6),
    "ncc": Kind("noisy-conceptual-captions", "train", Path("data/ncc"), candidates=1),
}


_images, _denoising, _data_set = panel("Images"), panel("Denoising"), panel("Data set")


@dataclass(frozen=True)
class BuildConfig(PromptSelection):
    """Options of a build; None means the default of the kind or of the pipeline.

    Raises:
        NbenchError: a value out of range.
    """

    kind: Annotated[Literal["genai-bench", "ncc"], Argument("A bench to evaluate on, or a data set to train on.")]
    pipeline: Annotated[
        str, Option("Pipeline: a name (`nbench pipelines`), a diffusers folder, a Hub id or http://HOST#MODEL.")
    ] = "shapes"
    out: Annotated[
        Place | None, Option("Output: folder or URL (s3://bucket/...). [default: data/noisy-genai-bench, data/ncc]")
    ] = None
    _: KW_ONLY
    fresh: Annotated[bool, Option("Start over, or resume an interrupted build.", flag="--fresh/--resume")] = False
    retry_failed: Annotated[bool, Option("Retry the candidates that failed.")] = False
    extend: Annotated[bool, Option("Add the prompts and candidates that the data set lacks, in new shards.")] = False
    prompts: Annotated[
        str | Path | None,
        prompt_option(f"genai-bench, genai-bench-527, cc12m, {SOURCES}. [default: those of the embedded world]"),
    ] = None
    process: Annotated[
        Literal["reverse", "forward"],
        _images("Generate images, or add noise to given ones: one VAE encoding instead of T denoiser calls."),
    ] = "reverse"
    images: Annotated[
        str | Path | None,
        _images(
            "Images for --process forward: a folder with captions.jsonl or with NAME.txt beside NAME.png, tar shards, "
            "genai-bench (with human ratings), a data set on the Hub, or shapes:COUNT (rendered scenes)."
        ),
    ] = None
    image_columns: Annotated[
        tuple[str, ...],
        _images("Image column of a data set on the Hub; repeatable: one per candidate.", flag="--image-column"),
    ] = ()
    steps: Annotated[int | None, _denoising("Denoising steps T. [default: the pipeline's, or 50]")] = None
    candidates: Annotated[int | None, _denoising("Candidates (seeds) per prompt. [default: 6; 1 for ncc]")] = None
    seed: Annotated[int, _denoising("Base seed; each candidate's own seed is derived from it.")] = 0
    batch_size: Annotated[int | None, _denoising("Images per batch. [default: the pipeline's]")] = None
    dtype: Annotated[str | None, _denoising("Weights: float32, float16 or bfloat16. [default: the pipeline's]")] = None
    positions: Annotated[str, _data_set("Positions to store: all, 20,30 or 0:50:5.")] = "all"
    signals: Annotated[
        tuple[str, ...],
        _data_set(
            "Stored at each position: latent, image, x0 (estimate of the finished latent), x0@L (that of L denoiser "
            "calls), cfg_gap (norm of conditional minus unconditional prediction), activations:LAYER[:DIM], "
            "attention:LAYER (mass and spread per prompt token); repeatable. [default: latent,image]",
            text=list[str] | None,
            parse=words,
        ),
    ] = DEFAULT_SIGNALS
    latent_dtype: Annotated[
        Literal["float16", "float32", "int8"], _data_set("Latent storage dtype; int8 adds one scale per channel.")
    ] = "float16"
    int8_encoding: Annotated[
        Int8Encoding, _data_set("Parquet encoding of int8 latents; dictionary takes 30 % fewer bytes.")
    ] = "plain"
    format: Annotated[Literal["parquet", "webdataset"], _data_set("Shard format.")] = "parquet"
    rows_per_shard: Annotated[int | None, _data_set("Trajectories per shard. [default: by their size]")] = None
    references: Annotated[
        tuple[str, ...] | None,
        _data_set(
            "References of a bench: SCORER or NAME=SCORER, any scorer of images. [default: clip,vqascore; "
            "in the embedded world also truth]",
            text=str | None,
            parse=words,
        ),
    ] = None
    options: PipelineOptions = field(default_factory=PipelineOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("--steps", self.steps, high=MOST_STEPS)
        check_range("--candidates", self.candidates, high=MOST_CANDIDATES)
        check_range("--batch-size", self.batch_size)
        check_range("--rows-per-shard", self.rows_per_shard)
        if self.dtype not in (None, *DTYPES):
            raise NbenchError(f"unknown dtype {self.dtype!r}: choose one of {', '.join(DTYPES)}")
        check_int8_encoding(self.int8_encoding, self.format, self.latent_dtype)
        object.__setattr__(self, "signals", normal_signals(self.signals))
        _ = self.stored  # refuses positions beyond the run
        self._check_process()

    def _check_process(self) -> None:
        if self.process == "reverse":
            if self.images is not None or self.image_columns:
                raise NbenchError("--images and --image-column need --process forward: add it, or leave them out")
            return
        if self.images is None:
            raise NbenchError("--process forward needs images: name them with --images")
        if is_same(Path(self.folder), Path(self.images)):
            raise NbenchError(f"--out {self.folder} is the folder of the images: give another")
        if self.prompts is not None:
            raise NbenchError("--prompts cannot be used with --images, whose captions come with them: leave it out")
        denoiser_options: dict[str, Any] = {
            "--guidance": self.options.guidance,
            "--eta": self.options.eta,
            "--quantize": self.options.quantize,
            "--lora": self.options.lora or None,
        }
        if self.signals != DEFAULT_SIGNALS:
            denoiser_options["--signals"] = self.signals
        if names := [name for name, value in denoiser_options.items() if value is not None]:
            raise NbenchError(f"{names[0]} needs a denoiser, which --process forward does not run: leave it out")

    @property
    def folder(self) -> Place:
        """Where the data set goes."""
        return self.out or KINDS[self.kind].out

    @property
    def prompt_request(self) -> PromptRequest:
        """The source of the prompts and the selection from it."""
        selection = {each.name: getattr(self, each.name) for each in fields(PromptSelection)}
        return PromptRequest(self.prompts or WORLD, **selection)

    @property
    def of_the_world(self) -> bool:
        """Whether the embedded world makes the images, of captions of its own."""
        from ..pipelines.aliases import WORLD_PIPELINES

        return self.process == "reverse" and self.pipeline in WORLD_PIPELINES and self.prompt_request.source == WORLD

    @property
    def n_steps(self) -> int:
        """Denoising steps T: `steps`, else the pipeline's usual number."""
        from ..pipelines.aliases import ALIASES

        entry = ALIASES.get(self.pipeline)
        return self.steps or (entry.steps if entry else DEFAULT_STEPS)

    @property
    def image_request(self) -> PromptRequest:
        """The source of the images and the selection of their captions."""
        return replace(self.prompt_request, source=self.images or "")

    @property
    def n_candidates(self) -> int:
        """Candidates per prompt."""
        return self.candidates or KINDS[self.kind].candidates

    @property
    def stored(self) -> tuple[int, ...]:
        """The positions to store; a bench always stores the finished latent, which every evaluation needs."""
        positions = parse_positions(self.positions, self.n_steps)
        return positions if self.kind == "ncc" else tuple(sorted({*positions, self.n_steps}))
