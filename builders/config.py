"""What a build is asked for, and the fingerprint of all that changes its output."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ..errors import NbenchError
from ..shards.positions import parse_positions
from .aliases import ALIASES, PipelineEntry
from .options import PipelineOptions
from .pipelines import scheduler_spec
from .prompts import Prompt, PromptRequest

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
        NbenchError: a value that makes no sense.
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
    references: tuple[str, ...] | None = None
    options: PipelineOptions = field(default_factory=PipelineOptions)

    def __post_init__(self) -> None:
        for name in ("limit", "sample", "steps", "candidates", "batch_size", "rows_per_shard"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise NbenchError(f"--{name.replace('_', '-')} {value} makes no sense: give 1 or more")
        if self.dtype not in (None, *DTYPES):
            raise NbenchError(f"no dtype {self.dtype!r}: there are {', '.join(DTYPES)}")
        _ = self.stored  # refuses positions beyond the run

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
    def n_candidates(self) -> int:
        """Candidates a prompt."""
        return self.candidates or KINDS[self.kind].candidates

    @property
    def stored(self) -> tuple[int, ...]:
        """The positions to keep; a bench always keeps the finished latent, which every evaluation compares with."""
        asked = parse_positions(self.positions, self.n_steps)
        return asked if self.kind == "ncc" else tuple(sorted({*asked, self.n_steps}))


def build_spec(
    config: BuildConfig, entry: PipelineEntry, prompts: Sequence[Prompt], source: str = "shapes"
) -> dict[str, Any]:
    """All that decides what a build makes, as plain JSON; neither paths nor devices nor the batch size."""
    backends = {"quantize": entry.quantize, "attention": entry.attention}
    return {
        "kind": config.kind,
        "pipeline": {"name": entry.name, "content": entry.content},
        "scheduler": scheduler_spec(entry),
        "steps": config.n_steps,
        "guidance": entry.guidance if config.guidance is None else config.guidance,
        "call_kwargs": entry.call_kwargs,
        "dtype": config.dtype or entry.dtype,
        "seed": config.seed,
        "prompts": {"source": source, "count": len(prompts), "sha256": prompts_digest(prompts)},
        "candidates": config.n_candidates,
        "positions": list(config.stored),
        "rows_per_shard": config.rows_per_shard,
        "format": config.format,
        "latent_dtype": config.latent_dtype,
        # only where asked for, so that builds of before have the fingerprint of before
        **{name: backend for name, backend in backends.items() if backend is not None},
    }


def prompts_digest(prompts: Iterable[Prompt]) -> str:
    """SHA-256 of their JSON as one list, of which never more than a prompt is in memory."""
    total, comma = hashlib.sha256(b"["), b""
    for prompt in prompts:
        total.update(comma + json.dumps(asdict(prompt), sort_keys=True).encode())
        comma = b", "
    total.update(b"]")
    return total.hexdigest()
