"""A bench and a scorer to a score table: streams the trajectories, embeds each prompt once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ..errors import NbenchError
from ..scorers.previews import preview
from ..scorers.protocols import NameScorer, PairScorer, Scorer, TwinTower
from ..scorers.registry import get_reference
from ..shards.reader import Bench, open_bench
from ..shards.schema import DatasetInfo, TrajectoryBatch
from ..shards.scores import SCORE_SCHEMA, reference_path, write_scores

Progress = Callable[[str, int], None]
"""Told the scorer's name and how many trajectories it has just scored."""

_BATCH_ROWS = 256
_BATCH_BYTES = 256 * 2**20


def score_bench(bench: Bench, scorer: Scorer, positions: Sequence[int], progress: Progress | None = None) -> pa.Table:
    """Score table of every trajectory at `positions`; only the columns that the scorer reads leave the disk.

    A scorer of images sees the finished one, so it scores the final position alone. Memory does not grow with the
    bench, but for the table itself.

    Raises:
        NbenchError: a position is not stored, nothing is left to score, or a needed preview map is missing.
    """
    info = bench.info
    if scorer.reads == "image":
        positions = [position for position in positions if position == info.steps]
    if scorer.reads == "preview" and info.preview is None:
        raise NbenchError(
            f"{bench.location.url} has no preview map, which {scorer.name} needs: build it with one (--fresh)"
        )
    latents = list(positions) if scorer.reads in ("latent", "preview") else []
    images = scorer.reads == "image"
    row_bytes = 4 * (3 * int(np.prod(info.image_size)) * images + int(np.prod(info.latent_shape)) * len(latents))
    texts = _TextCache()
    chunks = []
    for batch in bench.batches(latents, images, max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(row_bytes, 1)))):
        if len(batch):
            chunks += [_rows(batch, k, _score(scorer, texts, batch, k, info)) for k in positions]
        if progress is not None:
            progress(scorer.name, len(batch) + batch.failed)
    if not chunks:
        raise NbenchError(
            f"{bench.location.url} has nothing that {scorer.name} could score at positions {list(positions)}"
        )
    return pa.concat_tables(chunks)


def score_references(bench_path: Path, names: Sequence[str], progress: Progress | None = None) -> None:
    """Score the final images of a bench and write its `scores/<name>.parquet` for each reference in `names`.

    Raises:
        NbenchError: the bench is not whole, or a reference is unknown or does not fit it.
    """
    bench = open_bench(bench_path)
    for name, scorer in [(name, get_reference(name, bench.info)) for name in names]:
        table = score_bench(bench, scorer, [bench.info.steps], progress)
        write_scores(reference_path(bench_path, name), table, score_metadata(bench.info, scorer))


def score_metadata(info: DatasetInfo, scorer: Scorer) -> dict[str, Any]:
    """Where a score table comes from."""
    return {
        "scorer": scorer.name,
        "scorer_fingerprint": scorer.fingerprint,
        "bench_fingerprint": info.fingerprint,
    }


class _TextCache:
    """Text embeddings of the prompts at hand: rows come prompt by prompt, so each is embedded once and few are kept."""

    def __init__(self) -> None:
        self._known: dict[str, torch.Tensor] = {}

    def embed(self, tower: TwinTower, prompts: Sequence[str]) -> torch.Tensor:
        wanted = dict.fromkeys(prompts)
        new = [prompt for prompt in wanted if prompt not in self._known]
        found = self._known | (dict(zip(new, tower.embed_text(new), strict=True)) if new else {})
        self._known = {prompt: found[prompt] for prompt in wanted}
        return torch.stack([self._known[prompt] for prompt in prompts])


def _score(scorer: Scorer, texts: _TextCache, batch: TrajectoryBatch, position: int, info: DatasetInfo) -> torch.Tensor:
    if isinstance(scorer, NameScorer):
        return scorer.score_names(batch.prompt_ids, batch.candidates, position)
    inputs = _inputs(scorer, batch, position, info)
    if isinstance(scorer, PairScorer):
        return scorer.score(inputs, batch.prompts)
    assert isinstance(scorer, TwinTower)
    return (texts.embed(scorer, batch.prompts) * scorer.embed_inputs(inputs)).sum(-1)


def _inputs(scorer: Scorer, batch: TrajectoryBatch, position: int, info: DatasetInfo) -> torch.Tensor:
    if scorer.reads == "image":
        return torch.tensor(batch.images).permute(0, 3, 1, 2).float() / 255
    latents = torch.tensor(batch.latents[position], dtype=torch.float32)
    return preview(latents, info.preview) if scorer.reads == "preview" and info.preview else latents


def _rows(batch: TrajectoryBatch, position: int, scores: torch.Tensor) -> pa.Table:
    values = scores.double().cpu().numpy()
    columns = {
        "prompt_id": batch.prompt_ids,
        "candidate": batch.candidates,
        "position": np.full(len(batch), position),
        "caption": ["prompt"] * len(batch),
        "score": values,
        "status": np.where(np.isfinite(values), "ok", "failed"),
    }
    return pa.table(columns, schema=SCORE_SCHEMA)
