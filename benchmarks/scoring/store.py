"""The score table of an evaluation on disk: existing scores are kept, missing ones are scored shard by shard.

`<model>.parquet` holds all positions ever scored. While it grows, a folder `.<model>.parts` beside it has one table per
finished shard, from which a killed run continues, and the records by which several runs share the shards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...console import TextConsole
from ...errors import NbenchError
from ...jobs.run import Run, check_alone
from ...options import Place
from ...scorers.protocols import Scorer, calls_per_score
from ...shards.atomic import writing_to
from ...shards.reader import Bench
from ...shards.scores import PROMPT, read_scores, scores_metadata, write_scores
from ..metrics.caption_figures import retrieval_rows
from ..metrics.rows import RetrievalRow
from ..results.result_file import EvaluationResult, read_result
from .card import Card, embedded, nothing_to_score, prompt_embeddings, score_metadata
from .inputs import readable
from .options import ScoreOptions
from .parts import Parts
from .score_job import OpenScorer, ScoreJob
from .together import Asking, together


def parts_beside(table: Path) -> Path:
    """The folder with the scores of single shards until `table` is complete."""
    return table.with_name(f".{table.stem}.parts")


@dataclass(frozen=True)
class Scored:
    """table: the scores at all positions ever scored; seconds: per score, None if never measured."""

    table: pa.Table
    retrieval: tuple[RetrievalRow, ...]
    seconds: float | None


@dataclass(frozen=True)
class Store:
    """The scores of one model on one bench, on disk.

    Attributes:
        path: of the table; the result is beside it as `.json`.
        scorer: to score in this process; of a model that others score, its card.
        retrieval: keep embeddings until the recall of a dual encoder is measured.
        source: `source_digest` of the model's path or id; None if it has none.
        model: what `get_scorer` takes, for workers in other processes.
        how: who scores the shards.
        parts_at: where the scores of single shards are kept; None: beside the table.
    """

    path: Path
    bench: Bench
    scorer: Scorer | Card
    options: ScoreOptions
    retrieval: bool = False
    source: str | None = None
    model: str | None = None
    how: Run = field(default_factory=Run)
    parts_at: Place | None = None

    def check_owner(self) -> None:
        """Refuse to replace scores of another bench or model with the same name.

        Raises:
            NbenchError: the existing scores are of another bench, model or preview decoder.
        """
        table, result = self._metadata(), self._result()
        benches = {table.get("bench_fingerprint"), result.bench_fingerprint if result else None}
        model = table.get("scorer_fingerprint", result.model_fingerprint if result else self.scorer.fingerprint)
        sources = {self.source, result.provenance.source if result else None} - {None}
        other = ""
        info = self.bench.info  # the bench may have been extended since
        if benches - {None, info.fingerprint, *(block.fingerprint for block in info.all_blocks)}:
            other = f"another bench called {self.bench.name}"
        elif model != self.scorer.fingerprint and len(sources) > 1:
            other = f"another model called {self.scorer.name}"
        elif table and model == self.scorer.fingerprint and table.get("decoder") != self._origin.get("decoder"):
            other = "other previews or of another VAE"
        if other:
            raise NbenchError(f"{self.path} has the scores of {other}: give another --out, or --fresh to replace them")

    def scored(self, positions: Sequence[int], fresh: bool = False, shown: bool = False) -> Scored:
        """What `scoring` returns, of this model alone; shown: show the progress on stderr.

        Raises:
            NbenchError: as `scoring`.
        """
        return together({"": self.scoring(positions, fresh, shown)}, replace(self.how, shown=shown))[""]

    def scoring(self, positions: Sequence[int], fresh: bool = False, shown: bool = False) -> Asking[Scored]:
        """The scores at `positions` and at all positions scored before; asks for jobs that score what is missing.

        Others may score the same at the same time: they share the shards. fresh: discard existing scores; shown: say on
        stderr what has changed.

        Raises:
            NbenchError: as `score_shards`, the folder cannot be written, or others score something else there.
        """
        with writing_to(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        if fresh:
            self._forget()
        old, result, missing = self._kept_and_missing(positions)
        if old is None and (yield from self._grow()):
            old, result, missing = self._kept_and_missing(positions)
        elif old is None:
            self._report_changes(shown)
        old_recall = tuple(result.retrieval) if result is not None else ()
        seconds = result.cost.seconds_per_score if result is not None and result.cost is not None else None
        if not missing:
            assert old is not None
            return Scored(old, old_recall, seconds)
        measured = yield from self._score(missing)
        if measured is None:  # others, who shared the work, have finished it
            return (yield from self.scoring(positions, shown=shown))
        try:
            recall = tuple(row for row in old_recall if row.position not in missing) + tuple(self._recall(missing))
            tables, captions_at = self._scored_parts(), set(missing if self.options.captions else ())
        except NbenchError:
            if self.missing(positions):
                raise
            return (yield from self.scoring(positions, shown=shown))  # others have just finished it
        if old is not None:
            tables.append(old.filter(pc.invert(pc.is_in(old["position"], pa.array(missing, pa.int32())))))
            captions_at |= set(scores_metadata(old)["captions_at"]) - set(missing)
        return Scored(self._write(tables, captions_at), recall, median(measured) if measured else seconds)

    def missing(self, positions: Sequence[int]) -> list[int]:
        """The positions at which `scored` would score.

        Raises:
            NbenchError: the scorer reads nothing that the bench has at `positions`.
        """
        return self._kept_and_missing(positions)[2]

    def _kept_and_missing(self, positions: Sequence[int]) -> tuple[pa.Table | None, EvaluationResult | None, list[int]]:
        """The existing table and result that can be kept, and the positions that they lack."""
        needed = readable(self.scorer, positions, self.bench.info.steps)
        if not needed:
            raise nothing_to_score(self.bench, self.scorer, positions)
        old, result = self._kept()
        if old is None:
            result = None
        recall = tuple(result.retrieval) if result is not None else ()
        needed = sorted({*needed, *self._repeated_positions()})
        return old, result, [position for position in needed if not self._has(position, old, recall)]

    @property
    def _parts(self) -> Parts:
        return Parts.of(self.parts_at or parts_beside(self.path))

    @property
    def _embeds(self) -> bool:
        return self.retrieval and self.card.embeds

    @cached_property
    def card(self) -> Card:
        """What is known of the scorer."""
        return self.scorer if isinstance(self.scorer, Card) else Card.of(self.scorer, self.bench.info, self.options)

    @property
    def _origin(self) -> dict[str, Any]:
        """Metadata that decides the scores: tables with the same origin have the same scores."""
        return self._origin_of(len(self.bench.info.shards))

    def _origin_of(self, shards: int) -> dict[str, Any]:
        """`_origin` of scores of the first `shards` shards; their content counts, as failed rows may be made again."""
        records = [record.sha256 for record in self.bench.info.shards[:shards] if record]
        return score_metadata(self.bench.info, self.card) | {
            "shards_sha256": hashlib.sha256("".join(records).encode()).hexdigest(),
            "reads": self.scorer.reads,
            "calls_per_score": calls_per_score(self.scorer.reads),
        }

    def _forget(self) -> None:
        check_alone(self._parts.store, self.how.lease)
        with writing_to(self.path):
            for path in (self.path, self.path.with_suffix(".json")):
                path.unlink(missing_ok=True)
        self._parts.remove()

    def _kept(self) -> tuple[pa.Table | None, EvaluationResult | None]:
        """The existing table if it has the same origin, and the result beside it."""
        if self._costs_nothing:
            return None, None
        table = self._table_of(self._origin)
        if table is None:
            return None, None
        result, same = self._result(), (self.scorer.fingerprint, self.bench.info.fingerprint)
        return table, result if result and (result.model_fingerprint, result.bench_fingerprint) == same else None

    def _table_of(self, origin: dict[str, Any]) -> pa.Table | None:
        """The existing table; None if there is none with this origin."""
        try:
            table = read_scores(self.path)
        except NbenchError:
            return None
        metadata = scores_metadata(table)
        return table if metadata.pop("captions_at", None) is not None and metadata == origin else None

    def _grow(self) -> Asking[bool]:
        """Add the scores of the added shards to a table from before the bench was extended; False if there is none."""
        fingerprint = self._metadata().get("bench_fingerprint")
        added = self.bench.info.shards_since(str(fingerprint))
        if not added or self._costs_nothing:
            return False
        old = self._table_of(self._origin_of(added.start) | {"bench_fingerprint": fingerprint})
        if old is None:
            return False
        tables, captioned = [old], set(scores_metadata(old)["captions_at"])
        positions = set(pc.unique(old["position"]).to_pylist())
        for captions, needed in ((True, positions & captioned), (False, positions - captioned)):
            if needed:
                store = replace(self, options=replace(self.options, captions=captions), retrieval=False)
                yield from store._score(sorted(needed), added)
                tables += store._scored_parts(added)
        self._write(tables, captioned)
        return True

    def _report_changes(self, shown: bool) -> None:
        table = self._metadata()
        for name, old, new in (
            (self.scorer.name, table.get("scorer_fingerprint"), self.scorer.fingerprint),
            (self.bench.name, table.get("bench_fingerprint"), self.bench.info.fingerprint),
        ):
            if old not in (None, new):
                note = f"{name} has changed since {self.path} was written: scoring everything again"
                TextConsole(stderr=True, quiet=not shown).print(note, soft_wrap=True)

    def _metadata(self) -> dict[str, Any]:
        """The metadata of the existing table; empty if there is none."""
        try:
            return scores_metadata(read_scores(self.path))
        except NbenchError:
            return {}

    def _result(self) -> EvaluationResult | None:
        try:
            return read_result(self.path.with_suffix(".json"))
        except NbenchError:
            return None

    @property
    def _costs_nothing(self) -> bool:
        """Whether scoring is free, so that it is repeated every time: the reference it reads may have changed."""
        return self.scorer.reads == "nothing" or self.scorer.reads.startswith("reference:")

    def _repeated_positions(self) -> set[int]:
        """Positions scored before by a scorer that is free to repeat."""
        if not self._costs_nothing:
            return set()
        try:
            table = read_scores(self.path)
        except NbenchError:
            return set()
        fingerprint = scores_metadata(table).get("bench_fingerprint")
        same_bench = self.bench.info.shards_since(str(fingerprint)) is not None  # it may have been extended since
        return set(pc.unique(table["position"]).to_pylist()) if same_bench else set()

    def _has(self, position: int, old: pa.Table | None, recall: Sequence[RetrievalRow]) -> bool:
        if old is None or position not in set(pc.unique(old["position"]).to_pylist()):
            return False
        if self.options.captions and position not in scores_metadata(old)["captions_at"]:
            return False
        return not self._embeds or position in {row.position for row in recall}

    def sharing(self, positions: Sequence[int]) -> Asking[int]:
        """Scores this process's share of the shards; how many are left to others.

        Raises:
            NbenchError: as `scoring`; or the bench has been extended, which takes a run without a share first.
        """
        old, _, missing = self._kept_and_missing(positions)
        if old is None and self.bench.info.shards_since(str(self._metadata().get("bench_fingerprint"))):
            raise NbenchError(f"{self.bench.name} has been extended since {self.path}: add its scores without --rank")
        if not missing:
            return 0
        job = self._job(missing, range(len(self.bench.info.shards)))
        job.prepare(self.how)
        summary, _ = yield job
        summary.check(job)
        return summary.left

    def _score(self, missing: Sequence[int], shards: Sequence[int] | None = None) -> Asking[list[float] | None]:
        """Score those of `shards` (default: all) without a part; the seconds per score of the batches.

        None if others, who shared the work, have finished it and removed the parts.
        """
        job = self._job(missing, range(len(self.bench.info.shards)) if shards is None else shards)
        job.prepare(self.how)
        summary, records = yield job
        summary.check(job)
        if summary.over:
            return None
        return [seconds for record in records.values() for seconds in record.result["score_seconds"]]

    def _job(self, missing: Sequence[int], shards: Sequence[int]) -> ScoreJob:
        key = self._origin | {"positions": list(missing), "captions": self.options.captions, "embeds": self._embeds}
        of = OpenScorer(
            self.bench.location.absolute,
            self.model,
            self.scorer.fingerprint,
            self.how.engine.elsewhere,
            missing,
            self.options,
            key,
            self._embeds,
            None if isinstance(self.scorer, Card) else (self.bench, self.scorer),
        )
        return ScoreJob(self._parts, f"scoring {self.scorer.name}", self.bench, shards, of)

    def _scored_parts(self, shards: Sequence[int] | None = None) -> list[pa.Table]:
        numbers = range(len(self.bench.info.shards)) if shards is None else shards
        return [self._parts.read(shard) for shard in numbers]

    def _write(self, tables: Sequence[pa.Table], captions_at: Iterable[int]) -> pa.Table:
        """Write the rows by prompt, candidate, position and caption: the same table after any number of runs.

        captions_at: the positions with scores of corrupted captions.
        """
        table = pa.concat_tables(each.replace_schema_metadata() for each in tables)
        if not len(table):
            raise NbenchError(
                f"{self.bench.location.url} has no trajectory that {self.scorer.name} could score: all of them failed"
            )
        places = pc.index_in(table["prompt_id"], pa.array([prompt.prompt_id for prompt in self.bench.prompts]))
        kinds = np.where(pc.equal(table["caption"], PROMPT), "", table["caption"].to_numpy())
        order = np.lexsort((kinds.astype(str), table["position"], table["candidate"], places.to_numpy()))
        write_scores(self.path, table.take(order), self._origin | {"captions_at": sorted(captions_at)})
        self._parts.remove()
        return read_scores(self.path)

    def _recall(self, missing: Sequence[int]) -> list[RetrievalRow]:
        if not self._embeds:
            return []
        prompts = self.bench.prompts
        captions = [prompt.prompt for prompt in prompts]
        if isinstance(self.scorer, Card):
            bench = self.bench.location.absolute
            texts = self.how.engine.call(prompt_embeddings, self.model, bench, self.options, captions)
        else:
            texts = embedded(self.scorer, captions)
        place = {prompt.prompt_id: number for number, prompt in enumerate(prompts)}
        shards = [(shard, self._parts.read(shard)) for shard in range(len(self.bench.info.shards))]
        rows = []
        for number, position in enumerate(missing):
            owners, latents = [], []
            for shard, table in shards:
                here = table.filter(pc.and_(pc.equal(table["position"], position), pc.equal(table["caption"], PROMPT)))
                if len(here):
                    owners += [place[name] for name in here["prompt_id"].to_pylist()]
                    latents.append(self._parts.embeddings(shard)[number])
            rows += retrieval_rows(self.scorer.name, position, texts, np.concatenate(latents), np.array(owners))
        return rows
