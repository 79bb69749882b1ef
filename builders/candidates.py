"""The candidates of a build: their prompts and seeds, and their rows on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..pipelines.aliases import PipelineEntry
from ..shards.rows import FLOAT16_MAX
from ..shards.schema import TrajectoryBatch
from ..shards.seeds import candidate_seed
from .config import BuildConfig
from .prompts.rows import Prompt

if TYPE_CHECKING:
    import torch

    from ..pipelines.generate import Trajectories

Resolve = Callable[..., PipelineEntry]
"""Finds a pipeline, as `resolve_pipeline` does."""


@dataclass(frozen=True)
class Candidates:
    """A batch of candidates: prompt number and candidate number, prompt and seed of each."""

    cells: Sequence[tuple[int, int]]
    prompts: Sequence[str]
    seeds: Sequence[int]


@dataclass(frozen=True)
class Plan:
    """What decides the rows of a build: its configuration, pipeline, prompts and spec.

    `prompts` are all of them, or by number those of the shard that a worker makes.
    """

    config: BuildConfig
    entry: PipelineEntry
    prompts: Sequence[Prompt] | Mapping[int, Prompt]
    spec: dict[str, Any]

    @property
    def batch_size(self) -> int:
        """Rows per batch, as far as memory allows."""
        return self.config.batch_size or self.entry.batch_size

    def candidates(self, cells: Sequence[tuple[int, int]]) -> Candidates:
        """The candidates with these prompt and candidate numbers."""
        named = [(self.prompts[number], candidate) for number, candidate in cells]
        seeds = [candidate_seed(self.config.seed, prompt.id, candidate) for prompt, candidate in named]
        return Candidates(cells, [prompt.text for prompt, _ in named], seeds)

    def batch(self, candidates: Candidates, trajectories: Trajectories) -> TrajectoryBatch:
        """The rows of `candidates` for a shard writer; one with values that are not finite gets an error."""
        prompts = [self.prompts[number] for number, _ in candidates.cells]
        kind = self.config.latent_dtype
        latents = {position: as_kept(latent, kind) for position, latent in trajectories.latents.items()}
        x0 = {position: as_kept(latent, kind) for position, latent in trajectories.x0.items()}
        activations = {
            layer: {k: as_kept(values, "float16") for k, values in places.items()}
            for layer, places in trajectories.activations.items()
        }
        ahead = {
            signal: {k: as_kept(latent, kind) for k, latent in places.items()}
            for signal, places in trajectories.ahead.items()
        }
        gap = None if trajectories.cfg_gap is None else as_kept(trajectories.cfg_gap, "float32")
        signals = {"latent": latents, "x0": x0, **ahead, **activations, "cfg_gap": {} if gap is None else {0: gap}}
        value_errors = [
            next(filter(None, (not_finite({k: v[i] for k, v in at.items()}, name) for name, at in signals.items())), "")
            for i in range(len(prompts))
        ]
        return TrajectoryBatch(
            prompt_ids=[prompt.id for prompt in prompts],
            prompts=[prompt.text for prompt in prompts],
            candidates=[candidate for _, candidate in candidates.cells],
            seeds=candidates.seeds,
            tags=[prompt.tags for prompt in prompts],
            corruptions=[prompt.corruptions for prompt in prompts],
            errors=[other or error for error, other in zip(trajectories.errors, value_errors, strict=True)],
            latents=latents,
            images=trajectories.images,
            x0=x0,
            cfg_gap=gap,
            activations=activations,
            ahead=ahead,
        )


def as_kept(latents: torch.Tensor, latent_dtype: str) -> np.ndarray:
    """Latents in the dtype that a shard writer takes: float16, or float32 for float32 and for int8, which it scales.

    For int8, values beyond float16, which readers return, become infinite, so that their row fails.
    """
    import torch

    if latent_dtype == "int8":
        latents = torch.where(latents.abs() > FLOAT16_MAX, torch.inf, latents)
    return latents.to(torch.float16 if latent_dtype == "float16" else torch.float32).numpy()


def not_finite(latents: dict[int, np.ndarray], signal: str = "latent") -> str:
    """Why a candidate with these latents (or another `signal`) by position failed; "" if all are finite."""
    bad = [position for position, latent in latents.items() if not np.isfinite(latent).all()]
    return f"{signal} not finite from position {min(bad)}" if bad else ""
