"""What a scorer costs beside the denoiser, in seconds measured on the same machine."""

from __future__ import annotations

import time
from functools import wraps
from itertools import pairwise
from statistics import median
from typing import Any

from ...errors import NbenchError, check_range
from ...scorers.protocols import Scorer, calls_per_score
from ...shards.reader import Bench
from ..results.result_file import ScorerCost

_ROWS = 8


def scorer_cost(scorer: Scorer, seconds: float | None, step_seconds: float | None) -> ScorerCost:
    """The cost of one score, in seconds and, where a step was timed, in denoiser steps."""
    both = seconds is not None and step_seconds is not None
    return ScorerCost(
        reads=scorer.reads,
        calls_per_score=calls_per_score(scorer.reads),
        seconds_per_score=seconds,
        step_seconds=step_seconds,
        steps_per_score=seconds / step_seconds if both else None,  # type: ignore[operator]
    )


def time_steps(bench: Bench, steps: int, device: str | None = None) -> float:
    """Seconds of a denoiser step of one candidate: the median over `steps` of the bench's own pipeline, guidance
    included, with a batch of a few prompts.

    Raises:
        NbenchError: too few steps, or the pipeline cannot be had.
    """
    from ...builders.candidates import call_arguments
    from ...builders.regenerate import maker_of
    from ...pipelines.find import load_pipeline
    from ...pipelines.generate import generate

    check_range("--time-steps", steps, 2)
    spec = bench.info.spec
    try:
        pipe = load_pipeline(maker_of(spec), spec["dtype"], device)
        arguments = call_arguments(spec) | {"num_inference_steps": steps}
    except (NbenchError, KeyError) as error:
        raise NbenchError(f"no step can be timed ({error}): leave --time-steps out") from None
    prompts = [prompt.prompt for prompt in bench.prompts[:_ROWS]]
    stamps = _Stamps(pipe.scheduler)
    generate(pipe, prompts, list(range(len(prompts))), (), arguments)
    return median(after - before for before, after in pairwise(stamps.seconds)) / len(prompts)


class _Stamps:
    """When each step of a scheduler began, the device's work included; a step of the denoiser lies between two."""

    def __init__(self, scheduler: Any) -> None:
        self.seconds: list[float] = []
        step = scheduler.step

        @wraps(step)  # the recorder looks at what it takes
        def stamped(*arguments: Any, **named: Any) -> Any:
            import torch

            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seconds.append(time.perf_counter())
            return step(*arguments, **named)

        scheduler.step = stamped
