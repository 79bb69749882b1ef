"""Prompts and seeds to trajectories, through a stock pipeline."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..errors import NbenchError
from ..shards.schema import PositionInfo
from ..shards.signals import DEFAULT_SIGNALS, activations_of
from .calling import NOT_FINITE, as_pixels, call_pipeline
from .latent_layout import float32_noise
from .options import as_called
from .prompt_groups import prompt_groups
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
    ahead: dict[str, dict[int, torch.Tensor]] = field(default_factory=dict)


def generate(
    pipe: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    positions: Collection[int],
    arguments: dict[str, Any],
    signals: Collection[str] = DEFAULT_SIGNALS,
) -> Trajectories:
    """One candidate for each prompt and its seed, in one call of `pipe` or, where it pads prompts to the longest of a
    call, in one for each length.

    Each candidate's noise comes from a generator of its own: the first is drawn by the pipeline, in float32, and that
    of later steps by the scheduler.

    Raises:
        NbenchError: the pipeline or its scheduler refuses the arguments, or runs another number of steps.
    """
    groups = prompt_groups(pipe, prompts, arguments, pooled=bool(activations_of(signals)))
    parts = [
        _generate(pipe, [prompts[i] for i in group], [seeds[i] for i in group], positions, arguments, signals)
        for group in groups
    ]
    return parts[0] if len(parts) == 1 else _merged(parts, [i for group in groups for i in group])


def _generate(
    pipe: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    positions: Collection[int],
    arguments: dict[str, Any],
    signals: Collection[str],
) -> Trajectories:
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
        recorder.ahead,
    )


def _merged(parts: Sequence[Trajectories], numbers: Sequence[int]) -> Trajectories:
    """The rows of `parts`, one after another, in the order of their `numbers`."""
    order = np.argsort(numbers)

    def rows(values: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.cat(list(values))[order]

    def by_position(places: Sequence[dict[int, torch.Tensor]]) -> dict[int, torch.Tensor]:
        return {k: rows([each[k] for each in places]) for k in places[0]}

    errors = [error for part in parts for error in part.errors]
    gaps = [part.cfg_gap for part in parts if part.cfg_gap is not None]
    return Trajectories(
        by_position([part.latents for part in parts]),
        np.concatenate([part.images for part in parts])[order],
        parts[0].positions,
        tuple(errors[i] for i in order),
        by_position([part.x0 for part in parts]),
        rows(gaps) if gaps else None,
        {layer: by_position([part.activations[layer] for part in parts]) for layer in parts[0].activations},
        {signal: by_position([part.ahead[signal] for part in parts]) for signal in parts[0].ahead},
    )
