"""The references of a data set: score tables of its finished images, checked against the data set."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import NbenchError, one_line
from .reader import Bench
from .scores import PROMPT, scores_metadata

_KEYS = ("prompt_id", "candidate", "position", "caption")


def finished_scores(bench: Bench, name: str) -> pa.Table:
    """The rows of a reference that score finished images against their prompts: at most one per candidate.

    Raises:
        NbenchError: no such reference, no scores of finished images, or the table does not fit the data set.
    """
    if name not in bench.references:
        raise no_reference(bench, name)
    table = bench.references[name]
    _check_origin(bench, name, table)
    for column in _KEYS:
        if table[column].null_count:
            raise _unfit(bench, name, f"column {column} has empty cells; every row needs its key")
    finished = pc.and_(pc.equal(table["position"], bench.info.steps), pc.equal(table["caption"], PROMPT))
    table = table.filter(finished)
    if not table.num_rows:
        raise _unfit(bench, name, f"it has no scores of the finished images, at position {bench.info.steps}")
    _check_rows(bench, name, table)
    return table


def no_reference(bench: Bench, name: str) -> NbenchError:
    """The error for a reference that a data set does not have."""
    there = ", ".join(bench.references) or "none"
    item = name if name in ("clip", "vqascore") else "NAME=SCORER"
    return NbenchError(
        f"no reference {one_line(name)} in {bench.location.url}: it has {there}; {how_to_add(bench, item)} scores its "
        "images by another"
    )


def how_to_add(bench: Bench, item: str = "clip,vqascore") -> str:
    """The command that adds the references `item` to a data set."""
    if bench.location.url.startswith("hf://datasets/"):
        return f"nbench convert {bench.location.url} FOLDER, then nbench references FOLDER --add {item}"
    return f"nbench references {bench.location.url} --add {item}"


def _check_origin(bench: Bench, name: str, table: pa.Table) -> None:
    origin = scores_metadata(table)
    if not all(isinstance(origin.get(key), str) for key in ("bench_fingerprint", "scorer_fingerprint")):
        raise _unfit(bench, name, "it does not state its build and scorer")
    if origin["bench_fingerprint"] != bench.info.fingerprint:
        raise _unfit(bench, name, "it scores another build")


def _check_rows(bench: Bench, name: str, table: pa.Table) -> None:
    def row(mask: pa.ChunkedArray) -> str | None:
        rows = table.filter(mask).slice(0, 1).to_pylist()
        return f"prompt_id {one_line(rows[0]['prompt_id'])}, candidate {rows[0]['candidate']}" if rows else None

    prompts = pa.array([prompt.prompt_id for prompt in bench.prompts], pa.string())
    candidate = table["candidate"]
    foreign = pc.or_(
        pc.invert(pc.is_in(table["prompt_id"], prompts)),
        pc.or_(pc.less(candidate, 0), pc.greater_equal(candidate, bench.info.candidates)),
    )
    if key := row(foreign):
        raise _unfit(bench, name, f"it has {key}, which is not in the data set")
    keys = table.select(["prompt_id", "candidate"])
    counts = keys.group_by(keys.column_names).aggregate([([], "count_all")])
    repeated = counts.filter(pc.greater(counts["count_all"], 1)).slice(0, 1).to_pylist()
    if repeated:
        key = f"prompt_id {one_line(repeated[0]['prompt_id'])}, candidate {repeated[0]['candidate']}"
        raise _unfit(bench, name, f"it has {key} more than once")


def _unfit(bench: Bench, name: str, reason: str) -> NbenchError:
    command = how_to_add(bench, "NAME=SCORER --replace")
    return NbenchError(
        f"scores/{name}.parquet does not fit {bench.location.url}: {reason}; remove it, or score the images again: "
        f"{command}"
    )
