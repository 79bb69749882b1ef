"""Prompts and seeds to trajectories, through a stock pipeline."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..errors import NbenchError
from ..shards.schema import PositionInfo
from ..shards.signals import DEFAULT_SIGNALS
from .calling import NOT_FINITE, as_pixels, call_pipeline
from .latent_layout import float32_noise
from .options import as_called
from .recorder import Recorder
from .step_tap import Step, own_noise, tapped


@dataclass(frozen=True)
class Trajectories:
    """Latents by position [B, C, H, W] on the CPU, final images uint8 [B, h, w, 3], and all positions of the run.

    `errors` says of each candidate why it could not be made, "" where it could. The signals are those of `Recorder`.
    """

    latents: dict[int, torch.Tensor]
    images: np.ndarray
    positions: list[PositionInfo]
    errors: tuple[str, ...]
    x0: dict[int, torch.Tensor] = field(default_factory=dict)
    cfg_gap: torch.Tensor | None = None
    activations: dict[str, dict[int, torch.Tensor]] = field(default_factory=dict)


def generate(
    pipe: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    positions: Collection[int],
    arguments: dict[str, Any],
    signals: Collection[str] = DEFAULT_SIGNALS,
) -> Trajectories:
    """One candidate for each prompt and its seed, all in one call of `pipe`.

    Each candidate's noise comes from a generator of its own: the first is drawn by the pipeline, in float32, and that
    of later steps by the scheduler.

    Raises:
        NbenchError: the pipeline or its scheduler refuses the arguments, or runs another number of steps.
    """
    steps = arguments["num_inference_steps"]

    def check(step: Step) -> None:
        if step.levels.steps != steps:
            raise NbenchError(
                f"{type(pipe).__name__} runs {step.levels.steps} steps when asked for {steps}: "
                "leave out what shortens its run (denoising_end), or choose another number of steps"
            )

    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    called = as_called(pipe, {**arguments, "generator": generators}, len(prompts))
    with (
        tapped(pipe, check),
        Recorder(pipe, positions, signals) as recorder,
        float32_noise(pipe),
        own_noise(pipe, generators),
    ):
        images = call_pipeline(pipe, prompt=list(prompts), **called)
    return Trajectories(
        recorder.latents,
        as_pixels(images.values),
        recorder.positions,
        tuple("" if finite else NOT_FINITE for finite in images.finite),
        recorder.x0,
        recorder.cfg_gap,
        recorder.activations,
    )
