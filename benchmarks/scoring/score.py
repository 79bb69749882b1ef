"""A bench and a scorer to score tables, shard by shard: each prompt, caption and latent is embedded once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ...errors import NbenchError
from ...scorers.decoders import decoder_fingerprint
from ...scorers.protocols import NameScorer, PairScorer, Scorer, TwinTower, embed_inputs, score_pairs
from ...scorers.registry import get_reference
from ...shards.reader import Bench, open_bench
from ...shards.schema import DatasetInfo, TrajectoryBatch
from ...shards.scores import PROMPT, SCORE_SCHEMA, reference_path, write_scores
from ...shards.stream import Order, prefetch
from .inputs import Supply, readable
from .options import ScoreOptions

Progress = Callable[[str, int], None]
"""Told the scorer's name and how many trajectories it has just scored."""


@dataclass
class Seen:
    """What scoring comes by. seconds: of one score, in each batch at each position; embeddings: by position, of the
    inputs of a twin tower, float32 [B, D] a batch, in the order of the scores (None: they are not kept)."""

    seconds: list[float] = field(default_factory=list)
    embeddings: dict[int, list[np.ndarray]] | None = None


_Texts = Sequence[str | None]
"""A caption a row, None where there is none."""
_BATCH_ROWS = 256
_BATCH_BYTES = 256 * 2**20
_AS_USUAL = ScoreOptions()


def score_bench(
    bench: Bench,
    scorer: Scorer,
    positions: Sequence[int],
    progress: Progress | None = None,
    options: ScoreOptions = _AS_USUAL,
) -> pa.Table:
    """Score table of every trajectory at `positions`: that of all shards of `score_shards`.

    Raises:
        NbenchError: as `score_shards`.
    """
    return pa.concat_tables(table for _, table in score_shards(bench, scorer, positions, progress, options))


def score_shards(
    bench: Bench,
    scorer: Scorer,
    positions: Sequence[int],
    progress: Progress | None = None,
    options: ScoreOptions = _AS_USUAL,
    shards: Sequence[int] | None = None,
    seen: Seen | None = None,
) -> Iterator[tuple[int, pa.Table]]:
    """The score tables of `shards` (None: all), each with the number of its shard; `seen` gets what else comes of it.

    Only the columns that the scorer reads leave the disk, and a batch at a time is in memory. A scorer of images sees
    the finished one, so it scores the final position alone; one of activations scores all others.

    Raises:
        NbenchError: a position is not stored, nothing is left to score, the bench lacks what the scorer reads, or
            `options.batch_size` rows are too many for the memory.
    """
    bench.require(positions)
    supply = Supply(bench, scorer, options)
    scored = readable(scorer.reads, positions, bench.info.steps)
    if not scored:
        raise nothing_to_score(bench, scorer, positions)
    run, numbers = _Run(scorer, supply, bench.info, options, seen), range(len(bench.info.shards))
    wanted = numbers if shards is None else shards
    batches = ((index, batch) for index in wanted for batch in _batches(bench, supply, scored, options, index))
    found = 0
    for index, some in groupby(prefetch(batches, options.ahead) if options.ahead else batches, itemgetter(0)):
        tables = [SCORE_SCHEMA.empty_table()]
        for _, batch in some:
            if len(batch):
                tables += run.tables(batch, scored)
            if progress is not None:
                progress(scorer.name, len(batch) + batch.failed)
        found += sum(map(len, tables))
        yield index, pa.concat_tables(tables)
    if not found and shards is None:
        raise NbenchError(f"{bench.location.url} has no trajectory that {scorer.name} could score: all of them failed")


def nothing_to_score(bench: Bench, scorer: Scorer, positions: Sequence[int]) -> NbenchError:
    """What is said where a scorer reads nothing that a bench has at `positions`."""
    return NbenchError(
        f"{bench.location.url} has nothing that {scorer.name} could score at positions {list(positions)}"
    )


def _batches(
    bench: Bench, supply: Supply, positions: Sequence[int], options: ScoreOptions, shard: int
) -> Iterator[TrajectoryBatch]:
    rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES // supply.row_bytes(positions)))
    read = positions if {"latent", "x0"} & set(supply.signals) or supply.kind == "activations" else ()
    order = Order(part=shard, parts=len(bench.info.shards))
    return bench.batches(read, supply.images, rows, order, signals=supply.signals)


def score_references(bench_path: Path, names: Sequence[str], progress: Progress | None = None) -> None:
    """Score the final images of a bench and write its `scores/<name>.parquet` for each reference in `names`.

    Raises:
        NbenchError: the bench is not whole, or a reference is unknown or does not fit it.
    """
    bench = open_bench(bench_path)
    for name, scorer in [(name, get_reference(name, bench.info)) for name in names]:
        table = score_bench(bench, scorer, [bench.info.steps], progress)
        write_scores(reference_path(bench_path, name), table, score_metadata(bench.info, scorer))


def score_metadata(info: DatasetInfo, scorer: Scorer, options: ScoreOptions = _AS_USUAL) -> dict[str, Any]:
    """Where a score table comes from."""
    looks = scorer.reads in ("preview", "x0_preview", "x0_image")
    decoder = decoder_fingerprint(info, options.preview, options.vae) if looks else ""
    return {
        "scorer": scorer.name,
        "scorer_fingerprint": scorer.fingerprint,
        "bench_fingerprint": info.fingerprint,
        **({"decoder": decoder} if decoder else {}),
    }


class _Run:
    """One scorer at work: how many rows it takes at a time, and the texts that it has embedded."""

    def __init__(
        self, scorer: Scorer, supply: Supply, info: DatasetInfo, options: ScoreOptions, seen: Seen | None
    ) -> None:
        self._scorer, self._supply, self._seen = scorer, supply, seen
        self._at = {position.position: position for position in info.positions}
        self._captions, self._automatic = options.captions, options.batch_size is None
        self._size = options.batch_size or _BATCH_ROWS
        self._texts: dict[str, torch.Tensor] = {}

    def tables(self, batch: TrajectoryBatch, positions: Sequence[int]) -> Iterator[pa.Table]:
        """The scores of a batch: by position, then by caption."""
        if isinstance(self._scorer, NameScorer):
            for position in positions:
                scores = self._scorer.score_names(batch.prompt_ids, batch.candidates, position)
                yield _table(batch, position, PROMPT, np.arange(len(batch)), scores)
            return
        captions = self._captions_of(batch)
        if isinstance(self._scorer, TwinTower):
            self._embed_texts(self._scorer, [text for texts in captions.values() for text in texts if text is not None])
        for position in positions:
            began = time.perf_counter()
            found = {kind: scores.double().cpu() for kind, scores in self._scores(batch, position, captions).items()}
            if self._seen is not None:
                times = 1 if isinstance(self._scorer, TwinTower) else len(captions)
                self._seen.seconds.append((time.perf_counter() - began) / (len(batch) * times))
            for kind, scores in found.items():
                rows = np.array([row for row, text in enumerate(captions[kind]) if text is not None])
                yield _table(batch, position, kind, rows, scores)

    def _captions_of(self, batch: TrajectoryBatch) -> dict[str, _Texts]:
        """By kind."""
        found: dict[str, _Texts] = {PROMPT: batch.prompts}
        if self._captions:
            kinds = dict.fromkeys(kind for row in batch.corruptions for kind, text in (row or {}).items() if text)
            found |= {kind: [(row or {}).get(kind) or None for row in batch.corruptions] for kind in kinds}
        return found

    def _scores(self, batch: TrajectoryBatch, position: int, captions: dict[str, _Texts]) -> dict[str, torch.Tensor]:
        parts: dict[str, list[torch.Tensor]] = {kind: [] for kind in captions}
        start = 0
        while start < len(batch):
            rows = slice(start, min(start + self._size, len(batch)))
            try:
                found = self._some(batch, position, rows, captions)
            except torch.OutOfMemoryError as error:
                if not self._automatic or rows.stop - start == 1:
                    raise NbenchError(
                        f"{self._scorer.name} runs out of memory with {self._size} rows at a time: "
                        "give a smaller --batch-size, or another --device or --dtype"
                    ) from error
                self._size = (rows.stop - start) // 2
                continue
            for kind, scores in found.items():
                parts[kind].append(scores)
            start = rows.stop
        return {kind: torch.cat(scores) for kind, scores in parts.items()}

    def _some(
        self, batch: TrajectoryBatch, position: int, rows: slice, captions: dict[str, _Texts]
    ) -> dict[str, torch.Tensor]:
        inputs, at = self._supply.inputs(batch, position, rows), self._at[position]
        texts = {
            kind: [(row, text) for row, text in enumerate(one[rows]) if text is not None]
            for kind, one in captions.items()
        }
        found = {}
        if isinstance(self._scorer, TwinTower):
            seen = embed_inputs(self._scorer, inputs, at)
            if self._seen is not None and self._seen.embeddings is not None:
                self._seen.embeddings.setdefault(position, []).append(seen.float().cpu().numpy())
            seen = seen * getattr(self._scorer, "scale", 1.0)
            for kind, told in texts.items():
                known = [self._texts[text] for _, text in told]
                chosen = seen[[row for row, _ in told]]
                found[kind] = (torch.stack(known) * chosen).sum(-1) if known else chosen.sum(-1)
            return found
        assert isinstance(self._scorer, PairScorer)
        for kind, told in texts.items():
            chosen, prompts = inputs[[row for row, _ in told]], [text for _, text in told]
            found[kind] = score_pairs(self._scorer, chosen, prompts, at) if told else torch.empty(0)
        return found

    def _embed_texts(self, tower: TwinTower, texts: Sequence[str]) -> None:
        """Rows come prompt by prompt, so that few texts need be kept for each to be embedded once."""
        wanted = list(dict.fromkeys(texts))
        new = [text for text in wanted if text not in self._texts]
        for start in range(0, len(new), _BATCH_ROWS):
            some = new[start : start + _BATCH_ROWS]
            self._texts |= dict(zip(some, tower.embed_text(some), strict=True))
        self._texts = {text: self._texts[text] for text in wanted}


def _table(batch: TrajectoryBatch, position: int, caption: str, rows: np.ndarray, scores: torch.Tensor) -> pa.Table:
    values = scores.double().cpu().numpy()
    columns = {
        "prompt_id": [batch.prompt_ids[row] for row in rows],
        "candidate": [batch.candidates[row] for row in rows],
        "position": np.full(len(rows), position),
        "caption": [caption] * len(rows),
        "score": values,
        "status": np.where(np.isfinite(values), "ok", "failed"),
    }
    return pa.table(columns, schema=SCORE_SCHEMA)
