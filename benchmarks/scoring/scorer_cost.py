"""Cost of a scorer relative to the denoiser, in seconds measured on the same machine."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import pairwise
from statistics import median

from ...errors import NbenchError, check_range, reason_of
from ...options import Place
from ...scorers.placement import Placement
from ...scorers.protocols import Scorer, calls_per_score
from ...shards.reader import open_bench
from ..results.result_file import ScorerCost
from .card import Card

_ROWS = 8


def scorer_cost(scorer: Scorer | Card, seconds: float | None, step_seconds: float | None) -> ScorerCost:
    """The cost of one score in seconds and, if a step was timed, in denoiser steps."""
    both = seconds is not None and step_seconds is not None
    return ScorerCost(
        reads=scorer.reads,
        calls_per_score=calls_per_score(scorer.reads),
        seconds_per_score=seconds,
        step_seconds=step_seconds,
        steps_per_score=seconds / step_seconds if both else None,  # type: ignore[operator]
    )


def time_steps(place: Place, steps: int, placement: Placement) -> float:
    """Seconds of a denoiser step of one candidate: the median over `steps` of the bench's own pipeline, guidance
    included, with a batch of a few prompts.

    Raises:
        NbenchError: too few steps, or the pipeline cannot be loaded.
    """
    from ...builders.spec import call_arguments, maker_of, recorded_loras
    from ...pipelines.find import load_pipeline
    from ...pipelines.generate import generate
    from ...pipelines.step_tap import tapped

    check_range("--time-steps", steps, 2)
    bench, device = open_bench(place), placement.here().device
    spec = bench.info.spec
    try:
        entry = replace(maker_of(spec), loras=recorded_loras(spec))
        pipe = load_pipeline(entry, spec["dtype"], device)
        arguments = call_arguments(spec) | {"num_inference_steps": steps}
    except (NbenchError, KeyError) as error:
        raise NbenchError(f"cannot time a denoiser step ({reason_of(error)}): leave --time-steps out") from None
    prompts = [prompt.prompt for prompt in bench.prompts[:_ROWS]]
    starts: list[float] = []
    with tapped(pipe, lambda step: starts.append(_now())):
        generate(pipe, prompts, list(range(len(prompts))), (), arguments)
    return median(after - before for before, after in pairwise(starts)) / len(prompts)


def _now() -> float:
    """The clock in seconds, after pending work of the device."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
