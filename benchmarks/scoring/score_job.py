"""Scoring as a job: its units are the shards of a bench, each of which leaves a table and, if wanted, embeddings."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import NbenchError
from ...jobs.job import Context, JobError, JobFile, Unit
from ...jobs.records import Record
from ...jobs.run import Run, check_alone
from ...options import Place
from ...scorers.placement import Placement
from ...scorers.protocols import Scorer
from ...scorers.references import Reference
from ...shards.reader import Bench, open_bench
from ...shards.schema import digest
from ...shards.stream import prefetch
from .card import load_scorer
from .options import ScoreOptions
from .parts import Parts, write_part

if TYPE_CHECKING:
    from .score import ShardScorer


@dataclass(frozen=True)
class OpenScorer:
    """What a worker needs to score shards; picklable: another process opens bench and scorer itself.

    Attributes:
        bench: its place.
        model: what `get_scorer` takes, or a reference; None if workers are this process.
        elsewhere: take the best device of the worker's machine.
        here: bench and scorer, for this process.
    """

    bench: Place
    model: str | Reference | None
    fingerprint: str
    elsewhere: bool
    positions: Sequence[int]
    options: ScoreOptions
    key: Mapping[str, Any]
    embeds: bool
    here: tuple[Bench, Scorer] | None = field(default=None, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"here": None}

    def __call__(self, context: Context) -> ScoreMaker:
        """Open the bench, and load the scorer."""
        from .score import ShardScorer

        placement = Placement.wanted(dtype=self.options.placement.dtype) if self.elsewhere else self.options.placement
        options = replace(self.options, placement=placement.here())
        bench, scorer = self.here or self._opened(options)
        return ScoreMaker(self, ShardScorer(bench, scorer, self.positions, options), context)

    def _opened(self, options: ScoreOptions) -> tuple[Bench, Scorer]:
        bench = open_bench(self.bench)
        assert self.model is not None
        scorer = load_scorer(self.model, bench.info, options)
        if scorer.fingerprint != self.fingerprint:
            raise JobError(f"{scorer.name} is another model on this machine: its fingerprint differs")
        return bench, scorer


@dataclass(frozen=True)
class ScoreMaker:
    """Scores shards with a loaded scorer."""

    of: OpenScorer
    scorer: ShardScorer
    context: Context

    def begin(self, payload: Any) -> None:
        """Nothing: the shards are known."""

    def make(self, index: int, payload: Any, folder: Path) -> Unit:
        """Score a shard; a thread reads its batches ahead.

        Raises:
            JobError: the scorer cannot be used, or the bench is damaged.
        """
        from .score import ByProducts

        by_products = ByProducts(embeddings={} if self.of.embeds else None)
        batches, ahead = self.scorer.batches(index), self.of.options.ahead
        try:
            table = self.scorer.table(prefetch(batches, ahead) if ahead else batches, self.context.advance, by_products)
        except NbenchError as error:
            raise JobError(str(error)) from None
        key, embeddings = dict(self.of.key), by_products.embeddings
        paths = write_part(folder, index, table, key, self.of.positions, embeddings)
        return Unit({path.name: (path, _sha256(path)) for path in paths}, {"score_seconds": by_products.seconds})

    def close(self) -> None:
        """Nothing is open."""


class ScoreJob:
    """The scores of `shards` of a bench, as their driver sees them; parts with the same key are kept."""

    def __init__(self, parts: Parts, title: str, bench: Bench, shards: Sequence[int], of: OpenScorer) -> None:
        self.store, self.title, self.open = parts.store, title, of
        self.key = digest({"key": dict(of.key)})
        self._parts, self._bench, self._shards = parts, bench, shards
        self._made_before = parts.done(shards, dict(of.key))

    def prepare(self, how: Run) -> None:
        """Remove parts of other scores, which an interrupted run has left.

        Raises:
            NbenchError: somebody is at work on them, or several processes are to share a store that cannot be shared.
        """
        if how.is_shared:
            self.store.probe()
        if (present := JobFile.read(self.store)) is not None and present.key == self.key:
            return  # others are at these scores, or were: all parts are theirs, some perhaps since this job was made
        kept = {name for shard in self._made_before for name in Parts.names_of(shard)}
        if others := self._parts.names() - kept:
            check_alone(self.store, how.lease)
            self.store.remove(others)

    def begun(self) -> bool:
        """Always: nothing is to be prepared."""
        return True

    def units(self) -> Collection[int]:
        """The shards."""
        return self._shards

    def made_before(self) -> Collection[int]:
        """The shards with a part when this driver began."""
        return self._made_before

    def damaged(self, records: Mapping[int, Record]) -> dict[int, str]:
        """The shards whose part is not there."""
        there = self._parts.names()
        tables = {shard: f"{shard:05d}.parquet" for shard in records}
        return {shard: name for shard, name in tables.items() if name not in there}

    def rows(self, index: int) -> int:
        """Its trajectories."""
        return len(self._bench.info.shard_rows(index))

    def payload(self, index: int) -> None:
        """Nothing: workers read the shard."""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
