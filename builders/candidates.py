"""Which candidate is row number r of a build, and how it is to be made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..pipelines.aliases import PipelineEntry
from ..pipelines.generate import Trajectories
from ..shards.rows import FLOAT16_MAX
from ..shards.schema import TrajectoryBatch
from ..shards.seeds import candidate_seed
from .config import BuildConfig
from .prompts.choose import Prompt

SHARD_BYTES, SHARD_ROWS = 256 * 2**20, 600
PREVIEW_ROWS = 16
"""Images that are enough to fit a preview to."""


@dataclass(frozen=True)
class Plan:
    """Rows are numbered prompt by prompt, candidate by candidate."""

    config: BuildConfig
    entry: PipelineEntry
    prompts: Sequence[Prompt]
    spec: dict[str, Any]

    @property
    def arguments(self) -> dict[str, Any]:
        """What the pipeline is called with."""
        return call_arguments(self.spec)

    def of(self, rows: Sequence[int]) -> list[Prompt]:
        """The prompts of rows."""
        return [self.prompts[row // self.config.n_candidates] for row in rows]

    def seeds(self, rows: Sequence[int]) -> list[int]:
        """The seeds of rows."""
        named = zip(self.of(rows), rows, strict=True)
        return [candidate_seed(self.config.seed, prompt.id, row % self.config.n_candidates) for prompt, row in named]

    def batch(self, rows: Sequence[int], made: Trajectories) -> TrajectoryBatch:
        """Rows as they go to disk."""
        prompts = self.of(rows)
        kind = self.config.latent_dtype
        latents = {position: as_kept(latent, kind) for position, latent in made.latents.items()}
        x0 = {position: as_kept(latent, kind) for position, latent in made.x0.items()}
        activations = {
            layer: {k: as_kept(values, "float16") for k, values in places.items()}
            for layer, places in made.activations.items()
        }
        gap = None if made.cfg_gap is None else as_kept(made.cfg_gap, "float32")
        others = {"x0": x0, **activations, "cfg_gap": {} if gap is None else {0: gap}}
        found = [
            not_finite({k: latent[i] for k, latent in latents.items()})
            or next(
                filter(None, (not_finite({k: v[i] for k, v in at.items()}, name) for name, at in others.items())), ""
            )
            for i in range(len(rows))
        ]
        return TrajectoryBatch(
            prompt_ids=[prompt.id for prompt in prompts],
            prompts=[prompt.text for prompt in prompts],
            candidates=[row % self.config.n_candidates for row in rows],
            seeds=self.seeds(rows),
            tags=[prompt.tags for prompt in prompts],
            corruptions=[prompt.corruptions for prompt in prompts],
            errors=[error or other for error, other in zip(made.errors, found, strict=True)],
            latents=latents,
            images=made.images,
            x0=x0,
            cfg_gap=gap,
            activations=activations,
        )


def call_arguments(spec: dict[str, Any]) -> dict[str, Any]:
    """What a build's pipeline is called with; a guidance of None is left to the pipeline."""
    guidance = {} if spec["guidance"] is None else {"guidance_scale": spec["guidance"]}
    return {"num_inference_steps": spec["steps"], **guidance, **spec["call_kwargs"]}


def as_kept(latents: torch.Tensor, latent_dtype: str) -> np.ndarray:
    """Latents as numbers of the type in which they go to a writer: int8 is scaled from what float32 holds.

    What float16 cannot hold, as which readers give int8 too, becomes infinite, so that its row fails.
    """
    if latent_dtype == "int8":
        latents = torch.where(latents.abs() > FLOAT16_MAX, torch.inf, latents)
    return latents.to(torch.float16 if latent_dtype == "float16" else torch.float32).numpy()


def rows_a_shard(row_bytes: int, n_candidates: int) -> int:
    """So many that a prompt's candidates stay together, and that a shard is small enough to be lost without grief."""
    return max(1, min(SHARD_ROWS, SHARD_BYTES // row_bytes) // n_candidates) * n_candidates


def first_look(has_preview: bool, n_prompts: int) -> int:
    """How many trajectories a build makes twice: its first ones, to which it fits the preview that it lacks."""
    return min(1 if has_preview else PREVIEW_ROWS, n_prompts)


def not_finite(latents: dict[int, np.ndarray], signal: str = "latent") -> str:
    """Why a candidate with these latents (or what else `signal` names) by position failed, or ""."""
    bad = [position for position, latent in latents.items() if not np.isfinite(latent).all()]
    return f"{signal} not finite from position {min(bad)}" if bad else ""
