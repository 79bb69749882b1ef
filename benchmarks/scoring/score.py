"""Score a bench with a scorer into score tables, shard by shard; each prompt, caption and latent is embedded once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from operator import itemgetter

import numpy as np
import pyarrow as pa
import torch

from ...errors import NbenchError
from ...scorers.apply import AppliedScorer, Rows, RowScores
from ...scorers.protocols import NameScorer, Scorer
from ...shards.reader import Bench
from ...shards.schema import PositionInfo, TrajectoryBatch
from ...shards.scores import PROMPT, SCORE_SCHEMA
from ...shards.stream import Order, prefetch
from .card import nothing_to_score
from .inputs import BenchInputs, applied, observed, readable
from .options import ScoreOptions

Progress = Callable[[str, int], None]
"""Called with the scorer's name and how many trajectories it has just scored."""


@dataclass
class ByProducts:
    """By-products of scoring.

    Attributes:
        seconds: per score, for each batch at each position.
        embeddings: by position, the input embeddings of a dual encoder, float32 [B, D] per batch in the order of the
            scores; None to discard them.
    """

    seconds: list[float] = field(default_factory=list)
    embeddings: dict[int, list[np.ndarray]] | None = None

    def note(self, position: int, scored: RowScores) -> None:
        """Keep the by-products of scoring a batch at a position."""
        self.seconds.append(scored.seconds)
        if self.embeddings is not None and scored.embeddings is not None:
            self.embeddings.setdefault(position, []).append(scored.embeddings.numpy())


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
    """The score table of every trajectory at `positions`: `score_shards` over all shards.

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
    by_products: ByProducts | None = None,
) -> Iterator[tuple[int, pa.Table]]:
    """The score tables of `shards` (default: all) with their shard numbers; `by_products` collects by-products.

    Only the columns that the scorer needs are read from disk, one batch at a time. A scorer of images reads the
    finished image, so it scores only the final position; a scorer of activations scores all other positions.

    Raises:
        NbenchError: a position is not stored, nothing to score, the bench lacks what the scorer reads, or
            `options.batch_size` rows do not fit in memory.
    """
    of = ShardScorer(bench, scorer, positions, options)
    numbers = range(len(bench.info.shards)) if shards is None else shards
    batches = ((index, batch) for index in numbers for batch in of.batches(index))
    n_scores = 0
    for index, shard_batches in groupby(prefetch(batches, options.ahead) if options.ahead else batches, itemgetter(0)):
        advance = partial(progress, scorer.name) if progress is not None else None
        table = of.table((batch for _, batch in shard_batches), advance, by_products)
        n_scores += len(table)
        yield index, table
    if not n_scores and shards is None:
        raise NbenchError(f"{bench.location.url} has no trajectory that {scorer.name} could score: all of them failed")


class ShardScorer:
    """Scores the shards of a bench at `positions`, each into a table.

    Raises:
        NbenchError: a position is not stored, nothing to score, or the bench lacks what the scorer reads.
    """

    def __init__(self, bench: Bench, scorer: Scorer, positions: Sequence[int], options: ScoreOptions) -> None:
        self._bench, self._options = bench, options
        self._inputs, self._run = BenchInputs(bench, scorer.reads), applied(bench, scorer, options)
        # finished images exist whichever latents are stored
        self._scored = readable(scorer, positions, bench.info.steps)
        read = observed(scorer, self._scored)
        bench.require([k for k in {*positions, *read} if not (self._inputs.images and k == bench.info.steps)])
        if not self._scored:
            raise nothing_to_score(bench, scorer, positions)
        finished = PositionInfo(bench.info.steps, None, 0.0, 1.0)
        stored = {position.position: position for position in (finished, *bench.info.positions)}
        self._at = [stored[position] for position in read]

    def batches(self, shard: int) -> Iterator[TrajectoryBatch]:
        """The rows of a shard, with what the scorer reads."""
        return _batches(self._bench, self._inputs, [at.position for at in self._at], shard)

    def table(
        self,
        batches: Iterable[TrajectoryBatch],
        advance: Callable[[int], None] | None = None,
        by_products: ByProducts | None = None,
    ) -> pa.Table:
        """The scores of a shard's batches; `advance` is called with how many trajectories have just been scored."""
        tables = [SCORE_SCHEMA.empty_table()]
        for batch in batches:
            if len(batch):
                scored = _tables(self._run, self._inputs, batch, self._at, self._options.captions, by_products)
                tables += [table for position, table in scored if position in self._scored]
            if advance is not None:
                advance(len(batch) + batch.failed)
        return pa.concat_tables(tables)


def _batches(bench: Bench, inputs: BenchInputs, positions: Sequence[int], shard: int) -> Iterator[TrajectoryBatch]:
    rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES // inputs.row_bytes(positions)))
    order = Order(part=shard, parts=len(bench.info.shards))
    return bench.batches(inputs.columns_at(positions), inputs.images, rows, order, signals=inputs.signals)


def _tables(
    run: AppliedScorer,
    inputs: BenchInputs,
    batch: TrajectoryBatch,
    at: Sequence[PositionInfo],
    captions: bool,
    by_products: ByProducts | None,
) -> Iterator[tuple[int, pa.Table]]:
    """The score tables of a batch with their positions: by position, then by caption."""
    rows = Rows(batch.prompt_ids, batch.candidates, _captions(batch, captions))
    for position in at:
        scores = run.score(rows, position, partial(inputs.recorded, batch, position.position))
        if by_products is not None and not isinstance(
            run.scorer, NameScorer
        ):  # it only looks scores up: no cost to note
            by_products.note(position.position, scores)
        for kind, values in scores.by_caption.items():
            numbers = np.array([row for row, text in enumerate(rows.texts[kind]) if text is not None])
            yield position.position, _table(batch, position.position, kind, numbers, values)


def _captions(batch: TrajectoryBatch, corrupted: bool) -> dict[str, Sequence[str | None]]:
    """By kind, one caption per row, None where a row has none."""
    kinds = dict.fromkeys(kind for row in batch.corruptions for kind, text in (row or {}).items() if text)
    others = {kind: [(row or {}).get(kind) or None for row in batch.corruptions] for kind in kinds if corrupted}
    return {PROMPT: batch.prompts, **others}


def _table(batch: TrajectoryBatch, position: int, caption: str, rows: np.ndarray, scores: torch.Tensor) -> pa.Table:
    values = scores.numpy()
    columns = {
        "prompt_id": [batch.prompt_ids[row] for row in rows],
        "candidate": [batch.candidates[row] for row in rows],
        "position": np.full(len(rows), position),
        "caption": [caption] * len(rows),
        "score": values,
        "status": np.where(np.isfinite(values), "ok", "failed"),
    }
    return pa.table(columns, schema=SCORE_SCHEMA)
