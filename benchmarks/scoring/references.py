"""The references of a data set: list them, and score its finished images at the end of a build or later."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ...builders.config import BuildConfig
from ...console import say
from ...errors import NbenchError
from ...jobs.engine import Engine, Here
from ...jobs.mirror import mirrored
from ...jobs.options import EngineOptions
from ...jobs.places import beneath
from ...jobs.run import Run
from ...scorers.placement import Placement
from ...scorers.protocols import Scorer
from ...scorers.references import DEFAULT_REFERENCES, TRUTH, Reference, load_reference, parse_references, try_scorer
from ...shards.atomic import writing_to
from ...shards.dataset import DatasetFolder
from ...shards.reader import Bench, open_bench
from ...shards.references import finished_scores, how_to_add
from ...shards.schema import DatasetInfo
from ...shards.scores import read_scores, reference_path, scores_metadata, write_scores
from .card import Card, cards, load_scorer, score_metadata
from .options import ScoreOptions
from .parts import Parts
from .references_config import AddConfig
from .score_job import OpenScorer, ScoreJob
from .store import parts_beside
from .together import Asking, together

_ROW = ("prompt_id", "candidate")


@dataclass(frozen=True)
class ReferenceRow:
    """A reference of a data set: its scorer and how many candidates it scored; flaw: why it cannot be used, else ""."""

    name: str
    scorer: str
    fingerprint: str
    n_scored: int
    n_unscored: int
    flaw: str = ""


@dataclass(frozen=True)
class Added:
    """The references that were scored now; left: shards that others have not scored yet."""

    names: list[str]
    left: int = 0


def list_references(bench: Bench) -> list[ReferenceRow]:
    """The references of a data set by name, including unusable ones.

    Raises:
        NbenchError: a table cannot be read.
    """
    rows = []
    for name, table in bench.references.items():
        origin, flaw, scored = scores_metadata(table), "", 0
        try:
            scored = int(np.isfinite(finished_scores(bench, name)["score"].to_numpy()).sum())
        except NbenchError as error:
            flaw = str(error)
        scorer, fingerprint = origin.get("model") or origin.get("scorer", ""), origin.get("scorer_fingerprint", "")
        rows.append(ReferenceRow(name, str(scorer), str(fingerprint), scored, bench.info.rows - scored, flaw))
    return rows


def add_references(config: AddConfig, progress: bool = False, workers: EngineOptions | None = None) -> Added:
    """Score the finished images of a data set by more references: the names of those scored now.

    An existing reference by the same scorer is kept; an interrupted one continues after its finished shards, and
    several runs at a time share them. If `workers` score only a share, the references are added by a run without one.

    Raises:
        NbenchError: no such data set; a reference that cannot be loaded; a name that a table of another
            scorer has, and `replace` is off; or others score another reference of that name there.
    """
    references, bench = parse_references(config.references), open_bench(config.bench)
    how = replace((workers or EngineOptions()).run(), shown=progress, retry_failed=True)
    placement, is_here = config.placement or Placement.wanted(), isinstance(how.engine, Here)
    options = replace(config.options, placement=placement.here() if is_here else placement)
    with mirrored(bench.location.url, "scores") as base:
        with writing_to(base / "scores"):
            (base / "scores").mkdir(exist_ok=True)
        # a list, so that an error comes before the first is scored
        missing = list(_missing(bench, base, references, options, config.replace, how.engine))
        tables = {of.name: _scoring(bench, base, of, scorer, options, how) for of, scorer in missing}
        left = sum(together(tables, how).values())
    return Added([reference.name for reference, _ in missing], left)


def _scoring(
    bench: Bench,
    base: Path,
    reference: Reference,
    scorer: Scorer | Card,
    options: ScoreOptions,
    how: Run,
) -> Asking[int]:
    """Scores the finished images of a data set into `scores/<name>.parquet`, shard by shard; how many shards are left.

    `base` is the folder of the data set, or a mirror of its scores; `how`: who scores.

    Raises:
        NbenchError: the scorer fails, all trajectories failed, or the folder cannot be written.
    """
    origin = _origin(bench.info, reference, scorer)
    path = reference_path(base, reference.name)
    kept, shards = _kept_scores(path, bench, origin)
    parts = Parts.of(beneath(bench.location.absolute, parts_beside(path).relative_to(base).as_posix()))
    positions, where = [bench.info.steps], bench.location.absolute
    of = OpenScorer(
        where, reference, scorer.fingerprint, how.engine.elsewhere, positions, options, origin, False,
        None if isinstance(scorer, Card) else (bench, scorer),
    )  # fmt: skip
    job = ScoreJob(parts, f"reference {reference.name}", bench, shards, of)
    job.prepare(how)
    summary, _ = yield job
    summary.check(job)
    if summary.over or how.share is not None:
        return summary.left
    table = pa.concat_tables([*kept, *(parts.read(shard).replace_schema_metadata() for shard in shards)])
    if not table.num_rows:
        raise NbenchError(f"{bench.location.url} has no image for {reference.name} to score: all trajectories failed")
    write_scores(path, table, origin)
    parts.remove()
    return 0


class References:
    """The references of `config` as the last step of its build; by default the standard ones that can be loaded.

    Raises:
        NbenchError: an unknown reference.
    """

    def __init__(self, config: BuildConfig, shown: bool) -> None:
        default = (*DEFAULT_REFERENCES, TRUTH) if config.of_the_world else DEFAULT_REFERENCES
        self._named = config.references is not None
        self._references = parse_references(default if config.references is None else config.references)
        self._shown = shown

    def check(self, info: DatasetInfo, say: Callable[[str], None]) -> None:
        """Refuse a requested reference that cannot be loaded before the long work starts.

        Raises:
            NbenchError: the reference cannot be loaded or does not score images.
        """
        for reference in self._references:
            try:
                try_scorer(load_reference(reference, info), info)
            except NbenchError as error:
                if self._named:
                    raise
                say(f"no reference scores: {error}")

    def run(self, folder: DatasetFolder, how: Run) -> None:
        """Score the final images by each reference without a table of this data set and its current weights. Without
        requested references, existing tables of user-chosen scorers are kept.

        Raises:
            NbenchError: as for `check`.
        """
        bench = open_bench(folder.place)
        with mirrored(folder.place, "scores") as base:
            self._score(bench, base, replace(how, shown=self._shown, retry_failed=True))

    def _score(self, bench: Bench, base: Path, how: Run) -> None:
        tables, options, wanted = {}, ScoreOptions(placement=Placement.wanted()), list[Reference]()
        for reference in self._references:
            path = reference_path(base, reference.name)
            there = _origin_at(path)
            if not self._named and "model" in there and there.get("bench_fingerprint") == bench.info.fingerprint:
                continue
            wanted.append(reference)
        for reference, scorer in zip(wanted, _scorers(bench, wanted, options, how.engine), strict=True):
            if isinstance(scorer, NbenchError):
                if self._named:
                    raise scorer
                if self._shown:
                    later = how_to_add(bench, f"{reference.name}=SCORER")
                    say(f"no reference {reference.name}: {scorer}; later: {later}", error=True)
                continue
            path = reference_path(base, reference.name)
            if _origin_at(path) != _origin(bench.info, reference, scorer) or not _complete(bench, path):
                tables[reference.name] = _scoring(bench, base, reference, scorer, options, how)
        together(tables, how)


def _origin(info: DatasetInfo, reference: Reference, scorer: Scorer | Card) -> dict[str, Any]:
    """The metadata of the score table; "model": the scorer, if the reference has another name."""
    label = {} if reference.scorer == reference.name else {"model": reference.scorer_label}
    return score_metadata(info, scorer) | {"scorer": reference.name} | label


def _kept_scores(path: Path, bench: Bench, origin: dict[str, Any]) -> tuple[list[pa.Table], Sequence[int]]:
    """The existing scores by the same scorer, and the shards with rows that lack one: they were added or made again."""
    there, info = _origin_at(path), bench.info
    known = info.shards_since(str(there.get("bench_fingerprint"))) is not None
    if not known or there | {"bench_fingerprint": info.fingerprint} != origin:
        return [], range(len(info.shards))
    shards, again = lacking(bench, table := read_scores(path))
    kept = [(row["prompt_id"], row["candidate"]) not in again for row in table.select(_ROW).to_pylist()]
    return [table.filter(pa.array(kept)).replace_schema_metadata()], shards


def lacking(bench: Bench, table: pa.Table) -> tuple[list[int], set[tuple[str, int]]]:
    """The shards with a row that did not fail and has no score in `table`, and the keys of all their rows."""
    shards, again = list[int](), set[tuple[str, int]]()
    if table.num_rows >= bench.info.rows - bench.n_failed:
        return shards, again
    scored = {(row["prompt_id"], row["candidate"]) for row in table.select(_ROW).to_pylist()}
    for shard in range(len(bench.info.shards)):
        rows = [row for batch in bench.shard_rows(shard, [*_ROW, "status"], 65536) for row in batch.to_pylist()]
        keys = {(row["prompt_id"], row["candidate"]): row["status"] == "ok" for row in rows}
        if any(sound and key not in scored for key, sound in keys.items()):
            shards.append(shard)
            again |= keys.keys()
    return shards, again


def _complete(bench: Bench, path: Path) -> bool:
    """Whether a table has a score of every candidate that did not fail."""
    return not lacking(bench, read_scores(path))[0]


def _origin_at(path: Path) -> dict[str, Any]:
    """The metadata of a score table; {} if there is none, or it is damaged."""
    try:
        return scores_metadata(read_scores(path))
    except NbenchError:
        return {}


def _missing(
    bench: Bench, base: Path, references: Sequence[Reference], options: ScoreOptions, replace: bool, engine: Engine
) -> Iterator[tuple[Reference, Scorer | Card]]:
    """The references without a table of this build and scorer (by fingerprint), with their scorers.

    Raises:
        NbenchError: there is a table of another scorer and `replace` is off; or a scorer cannot be loaded, which is
            tried if it will score here.
    """
    for reference, scorer in zip(references, _scorers(bench, references, options, engine), strict=True):
        if isinstance(scorer, NbenchError):
            raise scorer
        path = reference_path(base, reference.name)
        there, origin = _origin_at(path), _origin(bench.info, reference, scorer)
        same_scorer = there.get("scorer_fingerprint") == origin["scorer_fingerprint"]
        if same_scorer and there.get("bench_fingerprint") == origin["bench_fingerprint"] and _complete(bench, path):
            continue
        if path.exists() and not (same_scorer or replace):
            raise NbenchError(
                f"{bench.location.url} has a reference {reference.name} already, by {there.get('model', 'another')}: "
                "give another NAME=SCORER, or --replace"
            )
        if not isinstance(scorer, Card):
            try_scorer(scorer, bench.info)
        yield reference, scorer


def _scorers(
    bench: Bench, references: Sequence[Reference], options: ScoreOptions, engine: Engine
) -> Iterator[Scorer | Card | NbenchError]:
    """The scorer of each reference, loaded, or its card if others score; or why there is none."""
    if not isinstance(engine, Here):
        yield from engine.call(cards, references, bench.location.absolute, options) if references else ()
        return
    options = options.here()
    for reference in references:
        try:
            yield load_scorer(reference, bench.info, options)
        except NbenchError as error:
            yield error
