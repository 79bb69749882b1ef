"""What to serve, where, and within which limits."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated

from ...errors import MOST_CANDIDATES, MOST_STEPS, NbenchError, check_range
from ...options import Option, panel
from ...pipelines.options import PipelineOptions
from ...scorers.placement import DTYPES

_selection, _limits, _server = panel("Selection"), panel("Limits"), panel("Server")
_SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")


def parse_size(text: str) -> tuple[int, int]:
    """Width and height of `WIDTHxHEIGHT`, in pixels.

    >>> parse_size("768x1024")
    (768, 1024)

    Raises:
        NbenchError: another form.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise NbenchError(f"size {text[:40]!r} is not WIDTHxHEIGHT: write for example 1024x1024")
    return int(match[1]), int(match[2])


@dataclass(frozen=True)
class ServeConfig:
    """Settings of `nbench serve`.

    Raises:
        NbenchError: a value out of range.
    """

    pipeline: Annotated[str, Option("Pipeline: a name (`nbench pipelines`), a diffusers folder or a Hub id.")] = (
        "shapes"
    )
    steps: Annotated[int | None, Option("Denoising steps T. [default: the pipeline's]")] = None
    dtype: Annotated[str | None, Option("Weights: float32, float16 or bfloat16. [default: the pipeline's]")] = None
    bench: Annotated[
        str | None,
        Option("Bench of this pipeline; its preview map is used. [default: the pipeline's own map]"),
    ] = None
    best_of: Annotated[int, _selection("Candidates to draw per request.")] = 6
    model: Annotated[str, _selection("Scorer (`nbench models`).")] = "noisyclip"
    policy: Annotated[
        str, _selection("Positions and how many candidates to keep: 10:3,20:1; or a file written by `nbench tune`.")
    ] = "20:1"
    max_batch: Annotated[
        int | None, _limits("Candidates of all requests at a time. [default: four times those of one]")
    ] = None
    queue: Annotated[int, _limits("Requests that may wait; further ones get status 429.")] = 64
    sizes: Annotated[
        tuple[str, ...],
        _limits("Image size to offer, WIDTHxHEIGHT; repeatable. [default: the pipeline's]", flag="--size"),
    ] = ()
    max_prompt: Annotated[int, _limits("Longest prompt, in characters.")] = 4000
    max_body: Annotated[int, _limits("Largest request, in bytes; larger ones get status 413.")] = 65536
    host: Annotated[str, _server("Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, _server("Port to listen on; 0 for any that is free.")] = 8000
    stop_after: Annotated[int, _server("Seconds that running requests have to end after SIGTERM.")] = 60
    options: PipelineOptions = field(default_factory=PipelineOptions)

    def __post_init__(self) -> None:
        if self.dtype not in (None, *DTYPES):
            raise NbenchError(f"unknown dtype {self.dtype!r}: use one of {', '.join(DTYPES)}")
        check_range("--steps", self.steps, high=MOST_STEPS)
        check_range("--best-of", self.best_of, high=MOST_CANDIDATES)
        check_range("--port", self.port, low=0, high=65535)
        check_range("--stop-after", self.stop_after, low=0)
        for name in ("queue", "max_prompt", "max_body"):
            check_range(f"--{name.replace('_', '-')}", getattr(self, name))
        for size in self.sizes:
            parse_size(size)
