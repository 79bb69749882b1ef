"""What to generate with Best-of-N."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from ..errors import MOST_CANDIDATES, MOST_STEPS, NbenchError, check_range
from ..options import Argument, Option, panel
from ..pipelines.options import PipelineOptions
from ..scorers.placement import DTYPES

_selection, _adaptive = panel("Selection"), panel("Adaptive number of candidates")


@dataclass(frozen=True)
class SampleConfig:
    """Settings of `nbench sample`: one prompt, and how its best images are selected (see `BestOfN`).

    Raises:
        NbenchError: unknown dtype.
    """

    prompt: Annotated[str, Argument("Prompt: what the image should show.")]
    pipeline: Annotated[str, Option("Pipeline: a name (`nbench pipelines`), a diffusers folder or a Hub id.")] = (
        "shapes"
    )
    out: Annotated[Path, Option("Image file; with --keep K, also NAME-2 to NAME-K.")] = Path("image.png")
    show_candidates: Annotated[bool, Option("Draw all candidates too, in NAME-candidates.png.")] = False
    seed: Annotated[int, Option("Base seed; each candidate's own seed is derived from it.")] = 0
    prompt_id: Annotated[
        str | None, Option("The prompt's id in a bench, to draw the bench's candidates. [default: the prompt]")
    ] = None
    steps: Annotated[int | None, Option("Denoising steps T. [default: the pipeline's]")] = None
    dtype: Annotated[str | None, Option("Weights: float32, float16 or bfloat16. [default: the pipeline's]")] = None
    best_of: Annotated[int, _selection("Candidates to draw.")] = 6
    model: Annotated[str, _selection("Scorer (`nbench models`).")] = "noisyclip"
    policy: Annotated[
        str,
        _selection(
            "Positions and how many candidates to keep: 10:3,20:1, or 4,10:3,20:1 to draw four, 1,20:1r.6 to draw anew "
            "below a score; or a file written by `nbench tune` or `replay`."
        ),
    ] = "20:1"
    keep: Annotated[int, _selection("Number of images to select; no stage keeps fewer.")] = 1
    max_batch: Annotated[int | None, _selection("Candidates per batch, in waves. [default: all]")] = None
    accept: Annotated[float | None, _adaptive("Score that is good enough: stop drawing candidates.")] = None
    restart: Annotated[
        float | None,
        _adaptive("Lowest score of a wave's best; below it, draw anew within --budget, then take the best of all."),
    ] = None
    budget: Annotated[int | None, _adaptive("Denoiser calls at most; one step of one candidate is one call.")] = None
    bench: Annotated[
        str | None,
        Option("Bench of this pipeline; its preview map is used. [default: the pipeline's own map]"),
    ] = None
    options: PipelineOptions = field(default_factory=PipelineOptions)

    def __post_init__(self) -> None:
        check_range("--steps", self.steps, high=MOST_STEPS)
        check_range("--best-of", self.best_of, high=MOST_CANDIDATES)
        check_range("--keep", self.keep)
        if self.dtype not in (None, *DTYPES):
            raise NbenchError(f"unknown dtype {self.dtype!r}: use one of {', '.join(DTYPES)}")
