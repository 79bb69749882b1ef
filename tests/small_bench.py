"""A small bench with real shards whose latents and images carry a known quality of each candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nbench.shards.dataset import DatasetFolder
from nbench.shards.parquet import ParquetShardWriter
from nbench.shards.reader import Bench, open_bench
from nbench.shards.schema import DatasetInfo, PositionInfo, PreviewMap, TrajectoryBatch

PROMPTS, CANDIDATES, STEPS = 40, 4, 10
STORED = (0, 5, 8, 10)
FAILED = (3, 1)


@dataclass(frozen=True)
class Quality:
    """quality: float [P, N] of each candidate, NaN where it failed; seen: what position 5 shows of it."""

    quality: np.ndarray
    seen: np.ndarray


def make_bench(path: Path, texts: Sequence[str] = ()) -> tuple[Bench, Quality]:
    """Latents have the first channel's mean at 0 (noise), at a noisy quality, then at the quality; so has the image.

    texts: of the first prompts, the others have their number.
    """
    rng = np.random.default_rng(0)
    quality = rng.uniform(0.2, 0.8, (PROMPTS, CANDIDATES))
    quality[FAILED] = np.nan
    seen = quality + rng.normal(0, 0.2, quality.shape)
    shown = {0: rng.random(quality.shape), 5: seen, 8: quality, 10: quality}
    info = DatasetInfo(
        format_version=1,
        name="noisy-genai-bench",
        split="test",
        fingerprint="f" * 8,
        spec={"pipeline": {"name": "unknown", "content": ""}},
        latent_shape=(4, 16, 16),
        format="parquet",
        latent_dtype="float16",
        image_size=(32, 32),
        steps=STEPS,
        candidates=CANDIDATES,
        n_prompts=PROMPTS,
        rows=quality.size,
        rows_per_shard=60,
        positions=tuple(PositionInfo(k, None, None, 1.0) for k in STORED),
        preview=PreviewMap(((1, 0, 0, 0), (1, 0, 0, 0), (1, 0, 0, 0)), (0, 0, 0)),
        shards=(None, None, None),
    )
    with DatasetFolder(path) as folder:
        folder.create(info)
        for index in folder.missing():
            writer = ParquetShardWriter(path, info, index)
            rows = np.array(info.shard_rows(index))
            prompts, candidates = rows // CANDIDATES, rows % CANDIDATES
            images = np.nan_to_num(quality[prompts, candidates])[:, None, None, None] * np.full((32, 32, 3), 255)
            writer.write(
                TrajectoryBatch(
                    prompt_ids=[f"p{prompt:02d}" for prompt in prompts],
                    prompts=[texts[prompt] if prompt < len(texts) else f"prompt {prompt}" for prompt in prompts],
                    candidates=candidates.tolist(),
                    seeds=rows.tolist(),
                    tags=[None] * len(rows),
                    corruptions=[None] * len(rows),
                    errors=["nan" if np.isnan(quality[cell]) else "" for cell in zip(prompts, candidates, strict=True)],
                    latents={k: _latents(shown[k][prompts, candidates]) for k in STORED},
                    images=images.round().astype(np.uint8),
                )
            )
            folder.commit_shard(index, writer.commit())
    return open_bench(path), Quality(quality, seen)


def _latents(values: np.ndarray) -> np.ndarray:
    latents = np.zeros((len(values), 4, 16, 16), np.float16)
    latents[:, 0] = values[:, None, None]
    return latents
