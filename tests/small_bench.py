"""A small bench with real shards: latents and images encode a known quality of each candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nbench.shards.reader import Bench, open_bench
from nbench.shards.schema import PreviewMap, TrajectoryBatch

from .dataset_info import build, dataset_info

PROMPTS, CANDIDATES, STEPS = 40, 4, 10
STORED = (0, 5, 8, 10)
FAILED = (3, 1)


@dataclass(frozen=True)
class Quality:
    """quality: float [P, N] of each candidate, NaN where it failed; noisy: the noisy quality that position 5 shows."""

    quality: np.ndarray
    noisy: np.ndarray


def make_bench(path: Path, texts: Sequence[str] = ()) -> tuple[Bench, Quality]:
    """The mean of the first latent channel is noise at position 0, the noisy quality at 5, then the quality; so is the
    brightness of the image.

    texts: those of the first prompts; the others are their number.
    """
    rng = np.random.default_rng(0)
    quality = rng.uniform(0.2, 0.8, (PROMPTS, CANDIDATES))
    quality[FAILED] = np.nan
    noisy = quality + rng.normal(0, 0.2, quality.shape)
    shown = {0: rng.random(quality.shape), 5: noisy, 8: quality, 10: quality}
    info = dataset_info(
        n_prompts=PROMPTS,
        candidates=CANDIDATES,
        steps=STEPS,
        rows_per_shard=60,
        stored=STORED,
        preview=PreviewMap(((1, 0, 0, 0), (1, 0, 0, 0), (1, 0, 0, 0)), (0, 0, 0)),
    )

    def batches(numbers: range) -> list[TrajectoryBatch]:
        prompts, candidates = np.divmod(np.array(numbers), CANDIDATES)
        images = np.nan_to_num(quality[prompts, candidates])[:, None, None, None] * np.full((32, 32, 3), 255)
        return [
            TrajectoryBatch(
                prompt_ids=[f"p{prompt:02d}" for prompt in prompts],
                prompts=[texts[prompt] if prompt < len(texts) else f"prompt {prompt}" for prompt in prompts],
                candidates=candidates.tolist(),
                seeds=list(numbers),
                tags=[None] * len(numbers),
                corruptions=[None] * len(numbers),
                errors=["nan" if np.isnan(quality[cell]) else "" for cell in zip(prompts, candidates, strict=True)],
                latents={k: _latents(shown[k][prompts, candidates]) for k in STORED},
                images=images.round().astype(np.uint8),
            )
        ]

    return open_bench(build(path, info, batches)), Quality(quality, noisy)


def _latents(values: np.ndarray) -> np.ndarray:
    latents = np.zeros((len(values), 4, 16, 16), np.float16)
    latents[:, 0] = values[:, None, None]
    return latents
