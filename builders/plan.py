"""Which candidate is row number r of a build, and how it is to be made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..shards.schema import TrajectoryBatch
from ..shards.seeds import candidate_seed
from .config import BuildConfig
from .generate import Trajectories
from .pipelines import PipelineEntry
from .prompts import Prompt


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
        # int8 is scaled from what float32 holds, and reads back as float16
        kept = torch.float16 if self.config.latent_dtype == "float16" else torch.float32
        latents = {position: latent.to(kept).numpy() for position, latent in made.latents.items()}
        found = [_error({position: latent[i] for position, latent in latents.items()}) for i in range(len(rows))]
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
        )


def call_arguments(spec: dict[str, Any]) -> dict[str, Any]:
    """What a build's pipeline is called with; a guidance of None is left to the pipeline."""
    guidance = {} if spec["guidance"] is None else {"guidance_scale": spec["guidance"]}
    return {"num_inference_steps": spec["steps"], **guidance, **spec["call_kwargs"]}


def _error(latents: dict[int, np.ndarray]) -> str:
    """Why a candidate failed, or ""."""
    bad = [position for position, latent in latents.items() if not np.isfinite(latent).all()]
    return f"latent not finite from position {min(bad)}" if bad else ""
