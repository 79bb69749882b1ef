"""What to evaluate."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from ..options import Fields, Option, Place, panel
from ..scorers.placement import Placement
from .scoring.options import ScoreOptions

_output = panel("Results")


@dataclass(frozen=True)
class EvaluateConfig:
    """What to evaluate: `models` (names for `get_scorer`), at the positions `latents` and the final one.

    Attributes:
        bench: None for the default one, which is built if missing.
        placement: device and dtype of scorers; None for a GPU if available.
        options: how to score; latents are decoded at `placement` too.
        retrieval: measure the recall of dual encoders.
        time_steps: denoiser steps to time on this machine; None for none.
        fresh: discard existing scores and score again.
        yardstick: the reference for final-image selection; None for clip.
    """

    bench: Annotated[
        Place | None,
        Option(
            "Data set with references: folder, URL or Hub id. [default: data/noisy-genai-bench, built if missing]",
            env="NBENCH_BENCH",
        ),
    ] = None
    models: Annotated[
        tuple[str, ...],
        Option(
            "Scorer: a name (`nbench models`), Hub id, folder or class; repeatable. [default: clip, noisyclip]",
            flag="--model",
        ),
    ] = ("clip", "noisyclip")
    latents: Annotated[str, Option("Positions: all, 20,30 or 0:50:5; the final one is added.")] = "all"
    out: Annotated[Place, _output("Folder or URL for the result files.")] = Path("results")
    placement: Annotated[Placement | None, Fields(made_by=Placement.wanted)] = None
    options: ScoreOptions = field(default_factory=lambda: ScoreOptions(ahead=1))
    retrieval: Annotated[bool, _output("Measure the retrieval recall of dual encoders.")] = False
    time_steps: Annotated[
        int | None, _output("Time this many steps of the bench's pipeline, to give costs in denoiser steps.")
    ] = None
    fresh: Annotated[bool, Option("Discard existing scores and score again.")] = False
    yardstick: Annotated[str | None, _output("Reference that final-image selection goes by. [default: clip]")] = None
