"""The candidates of a build: what they are made of, and as they go to disk."""

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
from .prompts.rows import Prompt


@dataclass(frozen=True)
class Candidates:
    """Some candidates: the numbers of prompt and candidate, the texts, and the seeds."""

    cells: Sequence[tuple[int, int]]
    prompts: Sequence[str]
    seeds: Sequence[int]


@dataclass(frozen=True)
class Plan:
    """What the rows of a build are made of."""

    config: BuildConfig
    entry: PipelineEntry
    prompts: Sequence[Prompt]
    spec: dict[str, Any]

    @property
    def batch_size(self) -> int:
        """Rows to make at a time, as far as memory allows."""
        return self.config.batch_size or self.entry.batch_size

    def candidates(self, cells: Sequence[tuple[int, int]]) -> Candidates:
        """What is to be made for prompts and candidates with these numbers."""
        named = [(self.prompts[number], candidate) for number, candidate in cells]
        seeds = [candidate_seed(self.config.seed, prompt.id, candidate) for prompt, candidate in named]
        return Candidates(cells, [prompt.text for prompt, _ in named], seeds)

    def batch(self, candidates: Candidates, made: Trajectories) -> TrajectoryBatch:
        """Candidates as they go to disk."""
        prompts = [self.prompts[number] for number, _ in candidates.cells]
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
            for i in range(len(prompts))
        ]
        return TrajectoryBatch(
            prompt_ids=[prompt.id for prompt in prompts],
            prompts=[prompt.text for prompt in prompts],
            candidates=[candidate for _, candidate in candidates.cells],
            seeds=candidates.seeds,
            tags=[prompt.tags for prompt in prompts],
            corruptions=[prompt.corruptions for prompt in prompts],
            errors=[error or other for error, other in zip(made.errors, found, strict=True)],
            latents=latents,
            images=made.images,
            x0=x0,
            cfg_gap=gap,
            activations=activations,
        )


def as_kept(latents: torch.Tensor, latent_dtype: str) -> np.ndarray:
    """Latents as numbers of the type in which they go to a writer: int8 is scaled from what float32 holds.

    What float16 cannot hold, as which readers give int8 too, becomes infinite, so that its row fails.
    """
    if latent_dtype == "int8":
        latents = torch.where(latents.abs() > FLOAT16_MAX, torch.inf, latents)
    return latents.to(torch.float16 if latent_dtype == "float16" else torch.float32).numpy()


def not_finite(latents: dict[int, np.ndarray], signal: str = "latent") -> str:
    """Why a candidate with these latents (or what else `signal` names) by position failed, or ""."""
    bad = [position for position, latent in latents.items() if not np.isfinite(latent).all()]
    return f"{signal} not finite from position {min(bad)}" if bad else ""
