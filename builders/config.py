"""What a build is asked for, and the fingerprint of all that changes its output."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ..errors import NbenchError, check_range
from ..pipelines.aliases import ALIASES
from ..pipelines.options import PipelineOptions
from ..shards.positions import parse_positions
from ..shards.signals import DEFAULT_SIGNALS, normal_signals
from .prompts.choose import PromptRequest

DTYPES = ("float32", "float16", "bfloat16")
DEFAULT_STEPS = 50


@dataclass(frozen=True)
class Kind:
    """One of the two data sets that a build makes."""

    name: Literal["noisy-genai-bench", "noisy-conceptual-captions"]
    split: Literal["test", "train"]
    out: Path
    candidates: int


KINDS = {
    "genai-bench": Kind("noisy-genai-bench", "test", Path("data/noisy-genai-bench"), candidates=6),
    "ncc": Kind("noisy-conceptual-captions", "train", Path("data/ncc"), candidates=1),
}


@dataclass(frozen=True)
class BuildConfig:
    """A build as a person asks for it; None means the default of the kind or of the pipeline.

    Raises:
        NbenchError: a value out of range.
    """

    kind: Literal["genai-bench", "ncc"]
    pipeline: str = "shapes"
    out: Path | None = None
    prompts: str | Path | None = None
    prompt_column: str | None = None
    id_column: str | None = None
    sample: int | None = None
    filter_tags: tuple[str, ...] = ()
    skip_bad: bool = False
    limit: int | None = None
    steps: int | None = None
    guidance: float | None = None
    candidates: int | None = None
    positions: str = "all"
    batch_size: int | None = None
    dtype: str | None = None
    seed: int = 0
    rows_per_shard: int | None = None
    format: Literal["parquet", "webdataset"] = "parquet"
    latent_dtype: Literal["float16", "float32", "int8"] = "float16"
    fresh: bool = False
    retry_failed: bool = False
    extend: bool = False
    references: tuple[str, ...] | None = None
    options: PipelineOptions = field(default_factory=PipelineOptions)
    signals: tuple[str, ...] = DEFAULT_SIGNALS
    process: Literal["reverse", "forward"] = "reverse"
    images: str | Path | None = None
    image_columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("limit", "sample", "steps", "candidates", "batch_size", "rows_per_shard"):
            check_range(f"--{name.replace('_', '-')}", getattr(self, name))
        if self.out and re.match(r"\w\w+:/", str(self.out)):
            url = str(self.out).replace(":/", "://", 1)
            raise NbenchError(f"a build writes to this machine: build to a folder, then nbench convert FOLDER {url}")
        if self.dtype not in (None, *DTYPES):
            raise NbenchError(f"no dtype {self.dtype!r}: there are {', '.join(DTYPES)}")
        object.__setattr__(self, "signals", normal_signals(self.signals))
        _ = self.stored  # refuses positions beyond the run
        self._check_process()

    def _check_process(self) -> None:
        if self.process == "reverse":
            if self.images is not None or self.image_columns:
                raise NbenchError("--images are for --process forward: add it, or leave them out")
            return
        if self.images is None:
            raise NbenchError("--process forward makes latents of images: name them by --images")
        if self.prompts is not None:
            raise NbenchError("--prompts cannot be used with --images, whose captions come with them: leave it out")
        denoised: dict[str, Any] = {
            "--guidance": self.guidance,
            "--eta": self.options.eta,
            "--quantize": self.options.quantize,
        }
        if self.signals != DEFAULT_SIGNALS:
            denoised["--signals"] = self.signals
        if asked := [name for name, value in denoised.items() if value is not None]:
            raise NbenchError(f"{asked[0]} asks for a denoiser, which --process forward does not run: leave it out")

    @property
    def folder(self) -> Path:
        """Where the data set goes."""
        return self.out or KINDS[self.kind].out

    @property
    def prompt_request(self) -> PromptRequest:
        """Which prompts are asked for."""
        return PromptRequest(
            self.prompts or "shapes",
            self.prompt_column,
            self.id_column,
            self.limit,
            self.sample,
            self.seed,
            self.filter_tags,
            self.skip_bad,
        )

    @property
    def n_steps(self) -> int:
        """Denoising steps T: the pipeline's usual number unless another is asked for."""
        known = ALIASES.get(self.pipeline)
        return self.steps or (known.steps if known else DEFAULT_STEPS)

    @property
    def pipeline_options(self) -> PipelineOptions:
        """What is asked of the pipeline, the guidance included."""
        return replace(self.options, guidance=self.guidance) if self.guidance is not None else self.options

    @property
    def image_request(self) -> PromptRequest:
        """Which of the captions that come with images are asked for."""
        return replace(self.prompt_request, source=self.images or "")

    @property
    def n_candidates(self) -> int:
        """Candidates a prompt."""
        return self.candidates or KINDS[self.kind].candidates

    @property
    def stored(self) -> tuple[int, ...]:
        """The positions to keep; a bench always keeps the finished latent, which every evaluation compares with."""
        asked = parse_positions(self.positions, self.n_steps)
        return asked if self.kind == "ncc" else tuple(sorted({*asked, self.n_steps}))
