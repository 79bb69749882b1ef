"""Prompts and seeds to trajectories, through a stock pipeline."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..shards.schema import PositionInfo
from ..shards.signals import DEFAULT_SIGNALS
from .recorder import Recorder, pack
from .seeds import candidate_noise


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
    latent_shape: tuple[int, int, int] | None = None,
    signals: Collection[str] = DEFAULT_SIGNALS,
) -> Trajectories:
    """One candidate for each prompt and its seed, all in one call of `pipe`.

    `arguments` that the pipeline does not take are left out. Without `latent_shape` [C, H, W] the pipeline draws the
    noise itself, from the same generators: the same noise in float32.
    """
    given: dict[str, Any] = {"generator": [torch.Generator().manual_seed(seed) for seed in seeds]}
    if latent_shape is not None:
        drawn = [candidate_noise(seed, latent_shape) for seed in seeds]
        # of unit variance: the pipelines that start from more multiply by the scheduler's init_noise_sigma themselves
        noise = torch.stack([noise for noise, _ in drawn]).to(pipe.device, pipe.dtype)
        packed = hasattr(pipe, "_pack_latents")
        given = {"generator": [generator for _, generator in drawn], "latents": pack(noise) if packed else noise}
    taken = inspect.signature(pipe.__call__).parameters
    arguments = {name: value for name, value in {**arguments, **given}.items() if name in taken}
    with Recorder(pipe, positions, signals) as recorder:
        images = pipe(prompt=list(prompts), output_type="np", **arguments).images
    pixels = (np.nan_to_num(images).clip(0, 1) * 255).round().astype(np.uint8)
    return Trajectories(
        recorder.latents,
        pixels,
        recorder.positions,
        ("",) * len(seeds),
        recorder.x0,
        recorder.cfg_gap,
        recorder.activations,
    )
