"""The references of a data set: list them, and score its finished images at the end of a build or later."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ...builders.build import BuildReport
from ...builders.build import build as build_trajectories
from ...builders.config import BuildConfig
from ...builders.images.given import HUMAN
from ...console import say
from ...errors import NbenchError
from ...jobs.mirror import mirrored
from ...jobs.options import EngineOptions
from ...progress import BuildProgress
from ...scorers.placement import Placement
from ...scorers.protocols import Scorer
from ...scorers.references import DEFAULT_REFERENCES, TRUTH, Reference, load_reference, parse_references, try_scorer
from ...shards.atomic import writing_to
from ...shards.dataset import DatasetFolder
from ...shards.lock import locked
from ...shards.reader import Bench, open_bench
from ...shards.references import finished_scores, how_to_add
from ...shards.schema import DatasetInfo
from ...shards.scores import read_scores, reference_parts, reference_path, scores_metadata, write_scores
from .options import ScoreOptions
from .references_config import AddConfig
from .score import score_metadata, score_shards

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


def build(config: BuildConfig, progress: bool = True, workers: EngineOptions | None = None) -> BuildReport:
    """Build the data set of `config`, or finish it; on return it is complete, with its references.

    `workers` say who makes it. If they make only a part, it is neither complete nor has references.

    Raises:
        NbenchError: a file, folder, pipeline, reference or setting that the user must fix.
    """
    last = References(config, progress) if config.kind == "genai-bench" else None
    report = build_trajectories(config, progress, last, how=workers.run() if workers else None)
    if workers is not None and workers.share is not None:
        return report
    if (config.retry_failed or config.extend) and progress:
        _report_incomplete(open_bench(config.folder))
    return report


def _report_incomplete(bench: Bench) -> None:
    """Name the references of the user's own that lack scores of rows which were added or made again."""
    for name, table in bench.references.items():
        if name != HUMAN and _lacking(bench, table)[0]:
            way_out = how_to_add(bench, f"{name}=SCORER")
            say(f"reference {name} lacks scores of new rows, which {way_out} adds", error=True)


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


def add_references(config: AddConfig, progress: bool = False) -> list[str]:
    """Score the finished images of a data set by more references; returns the names of those scored now.

    An existing reference by the same scorer is kept; an interrupted one continues after its last finished shard.

    Raises:
        NbenchError: no such data set; a reference that cannot be loaded; a name that a table of another
            scorer has, and `replace` is off; or another command is writing to the data set.
    """
    references, bench = parse_references(config.references), open_bench(config.bench)
    placement = config.placement or Placement.best()
    with ExitStack() as stack:
        if bench.location.folder is not None:
            busy = f"another command is writing to {bench.path}: wait for it to end"
            stack.enter_context(locked(bench.path, busy))
        base = stack.enter_context(mirrored(bench.location.url, "scores"))
        bench = open_bench(bench.location.url)  # the lock keeps others from changing it
        with writing_to(base / "scores"):
            (base / "scores").mkdir(exist_ok=True)
        # a list, so that an error comes before the first is scored
        missing = list(_missing(bench, base, references, placement, config.replace))
        for reference, scorer in missing:
            with BuildProgress(f"reference {reference.name}", bench.info.rows, shown=progress) as bar:
                score_reference(bench, base, reference, scorer, bar.advance, config.options)
    return [reference.name for reference, _ in missing]


def score_reference(
    bench: Bench,
    base: Path,
    reference: Reference,
    scorer: Scorer,
    progress: Callable[[int], None] | None = None,
    options: ScoreOptions | None = None,
) -> None:
    """Score the finished images of a data set into `scores/<name>.parquet`, continuing after the last finished shard.

    `base` is the folder of the data set, or a mirror of its scores.

    Raises:
        NbenchError: the scorer fails, all trajectories failed, or the folder cannot be written.
    """
    origin = _origin(bench.info, reference, scorer)
    parts = reference_parts(base, reference.name)
    kept, shards = _kept_scores(reference_path(base, reference.name), bench, origin)
    paths = {shard: parts / f"{shard}.parquet" for shard in shards}
    missing = [shard for shard, path in paths.items() if _origin_at(path) != origin]
    advance = progress or (lambda count: None)
    advance(bench.info.rows - sum(len(bench.info.shard_rows(shard)) for shard in missing))
    for shard, table in score_shards(
        bench, scorer, [bench.info.steps], lambda _, count: advance(count), options or ScoreOptions(), missing
    ):
        write_scores(paths[shard], table, origin)
    table = pa.concat_tables([*kept, *(read_scores(path).replace_schema_metadata() for path in paths.values())])
    if not table.num_rows:
        raise NbenchError(f"{bench.location.url} has no image for {reference.name} to score: all trajectories failed")
    write_scores(reference_path(base, reference.name), table, origin)
    shutil.rmtree(parts)


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

    def run(self, folder: DatasetFolder) -> None:
        """Score the final images by each reference without a table of this data set and its current weights. Without
        requested references, existing tables of user-chosen scorers are kept.

        Raises:
            NbenchError: as for `check`.
        """
        bench = open_bench(folder.place)
        with mirrored(folder.place, "scores") as base:
            self._score(bench, base)

    def _score(self, bench: Bench, base: Path) -> None:
        for reference in self._references:
            path = reference_path(base, reference.name)
            there = _origin_at(path)
            if not self._named and "model" in there and there.get("bench_fingerprint") == bench.info.fingerprint:
                continue
            with BuildProgress(f"reference {reference.name}", bench.info.rows, shown=self._shown) as progress:
                try:
                    scorer = load_reference(reference, bench.info)
                except NbenchError as error:
                    if self._named:
                        raise
                    later = how_to_add(bench, f"{reference.name}=SCORER")
                    progress.say(f"no reference {reference.name}: {error}; later: {later}")
                    continue
                complete = there == _origin(bench.info, reference, scorer) and _complete(bench, path)
                if not complete:
                    score_reference(bench, base, reference, scorer, progress.advance)


def _origin(info: DatasetInfo, reference: Reference, scorer: Scorer) -> dict[str, Any]:
    """The metadata of the score table; "model": the scorer, if the reference has another name."""
    label = {} if reference.scorer == reference.name else {"model": reference.scorer_label}
    return score_metadata(info, scorer) | {"scorer": reference.name} | label


def _kept_scores(path: Path, bench: Bench, origin: dict[str, Any]) -> tuple[list[pa.Table], Sequence[int]]:
    """The existing scores by the same scorer, and the shards with rows that lack one: they were added or made again."""
    there, info = _origin_at(path), bench.info
    known = info.shards_since(str(there.get("bench_fingerprint"))) is not None
    if not known or there | {"bench_fingerprint": info.fingerprint} != origin:
        return [], range(len(info.shards))
    shards, again = _lacking(bench, table := read_scores(path))
    kept = [(row["prompt_id"], row["candidate"]) not in again for row in table.select(_ROW).to_pylist()]
    return [table.filter(pa.array(kept)).replace_schema_metadata()], shards


def _lacking(bench: Bench, table: pa.Table) -> tuple[list[int], set[tuple[str, int]]]:
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
    return not _lacking(bench, read_scores(path))[0]


def _origin_at(path: Path) -> dict[str, Any]:
    """The metadata of a score table; {} if there is none, or it is damaged."""
    try:
        return scores_metadata(read_scores(path))
    except NbenchError:
        return {}


def _missing(
    bench: Bench, base: Path, references: Sequence[Reference], placement: Placement, replace: bool
) -> Iterator[tuple[Reference, Scorer]]:
    """The references without a table of this build and scorer (by fingerprint), with their scorers.

    Raises:
        NbenchError: a scorer cannot be loaded, or there is a table of another one and `replace` is off.
    """
    for reference in references:
        scorer = load_reference(reference, bench.info, placement)
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
        try_scorer(scorer, bench.info)
        yield reference, scorer
