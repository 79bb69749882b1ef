"""The score tables that belong to a bench: its references, and the raw scores beside results."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...errors import NbenchError
from ...shards.reader import Bench
from ...shards.scores import read_scores, scores_metadata
from ..metrics.arrays import Array
from ..results.result_file import EvaluationResult
from .layout import Layout, foreign_row, of_prompts
from .table import ScoreTable, key_of

_AGAIN = "remove it, and score the references again"


@dataclass(frozen=True)
class Reference:
    """Scores of the final images, float [P, N], and the fingerprint of the scorer that gave them."""

    values: Array
    fingerprint: str


def bench_layout(bench: Bench) -> Layout:
    """[P, N] for all prompts of a bench, in its order."""
    return Layout.of_bench([prompt.prompt_id for prompt in bench.prompts], bench.info.candidates)


def bench_references(bench: Bench) -> dict[str, Reference]:
    """All references of a bench that score its final images, by name.

    Raises:
        NbenchError: as for `bench_table`, or a table has prompts that the bench does not have, or names no scorer.
    """
    layout, found = bench_layout(bench), {}
    for name in bench.references:
        table = bench_table(bench, name)
        row = foreign_row(table, layout)
        if row is not None:
            raise NbenchError(
                f"{table.place} has {key_of(table, layout.column, row)}, which is not in the bench: {_AGAIN}"
            )
        fingerprint = table.metadata.get("scorer_fingerprint")
        if not isinstance(fingerprint, str):
            raise NbenchError(f"{table.place} does not say which scorer it is of (scorer_fingerprint): {_AGAIN}")
        by_position = of_prompts(table, layout)
        if bench.info.steps in by_position:
            found[name] = Reference(by_position[bench.info.steps], fingerprint)
    return found


def final_references(bench: Bench, prompts: pa.Array) -> dict[str, Array]:
    """Scores float [P, N] of the final images of some prompts, by the name of each reference of this build.

    Raises:
        NbenchError: as for `bench_table`.
    """
    layout, found = Layout.of_bench(prompts, bench.info.candidates), {}
    for name, table in bench.references.items():
        if scores_metadata(table).get("bench_fingerprint") == bench.info.fingerprint:
            by_position = of_prompts(bench_table(bench, name), layout)
            if bench.info.steps in by_position:
                found[name] = by_position[bench.info.steps]
    return found


def bench_table(bench: Bench, name: str) -> ScoreTable:
    """A score table that a bench carries.

    Raises:
        NbenchError: there is none of this name, or it is of another build or has other candidates than the bench.
    """
    if name not in bench.references:
        there = ", ".join(bench.references) or "none"
        raise NbenchError(f"no scores {name} in {bench.location.url}: it has {there}")
    return of_bench(bench.references[name], bench, f"scores/{name}.parquet of {bench.location.url}", _AGAIN)


def of_bench(table: pa.Table, bench: Bench, place: str, advice: str) -> ScoreTable:
    """A table that says that it scores a bench; `advice`: what to do where it does not.

    Raises:
        NbenchError: it scores another build, or candidates that the bench does not have.
    """
    typed = ScoreTable.of(table, place)
    if typed.metadata.get("bench_fingerprint") != bench.info.fingerprint:
        raise NbenchError(f"{place} scores another build than {bench.location.url}: {advice}")
    candidates = pa.array(map(str, range(bench.info.candidates)), pa.string())
    outside = np.flatnonzero(pc.invert(pc.is_in(typed.images["candidate"].dictionary_decode(), candidates)))
    if len(outside):
        key = key_of(typed, "candidate", int(outside[0]))
        raise NbenchError(f"{place} has {key}, not one of 0..{len(candidates) - 1}: {advice}")
    return typed


def raw_scores(path: Path, result: EvaluationResult, bench: Bench) -> ScoreTable:
    """The scores beside the result at `path`, which is of this bench.

    Raises:
        NbenchError: gone, of another run, or of candidates that the bench does not have.
    """
    place = path.with_name(f"{path.name.removesuffix('.json')}.parquet")
    if not place.is_file():
        raise NbenchError(f"no raw scores at {place}: they lie beside the result; run nbench evaluate again")
    table = read_scores(place)
    origin = scores_metadata(table)
    run = (origin.get("bench_fingerprint"), origin.get("scorer_fingerprint"))
    if run != (result.bench_fingerprint, result.model_fingerprint):
        raise NbenchError(f"{place} is of another run than {path}: run nbench evaluate again")
    return of_bench(table, bench, str(place), "run nbench evaluate again")
