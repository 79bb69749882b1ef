"""The score tables of a bench: its references, and the raw scores beside results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...errors import NbenchError
from ...shards.reader import Bench
from ...shards.references import finished_scores
from ...shards.scores import read_scores, scores_metadata
from ..metrics.arrays import Array
from ..results.result_file import EvaluationResult
from .layout import Layout, image_values
from .table import ScoreTable, key_of


def bench_layout(bench: Bench) -> Layout:
    """The layout [P, N] of all prompts of a bench, in its order."""
    return Layout.of_bench([prompt.prompt_id for prompt in bench.prompts], bench.info.candidates)


def finished_table(bench: Bench, name: str) -> ScoreTable:
    """The scores of the finished images by one reference of a bench; errors as for `finished_scores`."""
    place = f"scores/{name}.parquet of {bench.location.url}"
    return ScoreTable.of(finished_scores(bench, name), place)


def final_references(bench: Bench, layout: Layout) -> dict[str, Array]:
    """Scores of the finished images [P, N] by each reference of a bench, by name; errors as for `finished_scores`."""
    return {name: image_values(finished_table(bench, name), layout) for name in bench.references}


def of_bench(table: pa.Table, bench: Bench, place: str, advice: str) -> ScoreTable:
    """The score table of a bench from memory; advice: what the user should do if it does not fit.

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
        NbenchError: missing, of another run, or of candidates that the bench does not have.
    """
    place = path.with_name(f"{path.name.removesuffix('.json')}.parquet")
    if not place.is_file():
        raise NbenchError(f"no raw scores at {place}, beside the result: run nbench evaluate again")
    table = read_scores(place)
    origin = scores_metadata(table)
    run = (origin.get("bench_fingerprint"), origin.get("scorer_fingerprint"))
    if run != (result.bench_fingerprint, result.model_fingerprint):
        raise NbenchError(f"{place} is of another run than {path}: run nbench evaluate again")
    return of_bench(table, bench, str(place), "run nbench evaluate again")
