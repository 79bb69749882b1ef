"""Compares two data sets: settings, shards, prompts, rows, columns, values and references."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from ...console import counted
from ...options import Place
from ..positions import describe_positions
from ..reader import Bench, open_bench
from ..row_columns import arrow_schema, feature_type
from ..schema import DatasetInfo
from ..scores import scores_metadata
from .report import Difference, DiffReport, ValueDifference, listed, missing, settings
from .tables import table_differences
from .values import shared_columns, value_differences

_RECORDS = ("shards", "positions", "blocks", "fingerprint", "spec")
"""Fields of dataset.json that are compared in their own way."""


def diff_datasets(a: Place, b: Place, progress: Callable[[int], None] | None = None) -> DiffReport:
    """Compare two data sets, folders or URLs, row by row; rows are matched by prompt id and candidate.

    Shards with equal records (path, bytes and SHA-256) hold equal rows and are not read again.

    Args:
        progress: called with the number of rows of `a` just compared, or found to need no comparison.

    Raises:
        NbenchError: one is no finished data set, or a shard that has to be read is damaged.
    """
    ours, theirs = open_bench(a), open_bench(b)
    found: list[Difference | ValueDifference] = [*_settings(ours.info, theirs.info)]
    compared = f"{counted(ours.info.rows, 'row')} in {counted(len(ours.info.shards), 'shard')}"
    if ours.info.shards != theirs.info.shards or found:
        found += _shards(ours.info, theirs.info)
        found += _columns(ours, theirs)
        keys = [_keys(bench) for bench in (ours, theirs)]
        found += _rows(*keys)
        rows = sorted((keys[0][key][0], keys[1][key][0]) for key in keys[0] if key in keys[1])
        changed = [pair for pair in rows if not _equal_shards(ours.info, theirs.info, *pair)]
        compared = f"{counted(len(rows), 'row')} and {len(shared_columns(ours, theirs))} columns of both"
        if progress:
            progress(ours.info.rows - len(changed))
        found += value_differences(ours, theirs, changed, progress)
    found += _references(ours, theirs)
    return DiffReport(
        "data sets",
        ours.location.url,
        theirs.location.url,
        compared,
        tuple(each for each in found if isinstance(each, Difference)),
        tuple(each for each in found if isinstance(each, ValueDifference)),
    )


def _settings(a: DatasetInfo, b: DatasetInfo) -> Iterator[Difference]:
    sides = [{name: value for name, value in asdict(info).items() if name not in _RECORDS} for info in (a, b)]
    differing = list(settings("settings", *sides))
    yield from differing
    stated = {each.name for each in differing} | {"positions"}
    for each in settings("settings", a.spec, b.spec):
        if each.name not in stated:  # most of the spec is a field of its own, too
            yield each
    yield from _positions(a, b)


def _positions(a: DatasetInfo, b: DatasetInfo) -> Iterator[Difference]:
    if a.stored != b.stored:
        yield Difference("positions", "stored", describe_positions(a.stored), describe_positions(b.stored))
    schedules = [{place.position: asdict(place) for place in info.positions} for info in (a, b)]
    for field in ("timestep", "sigma", "input_scale"):
        other = [k for k in schedules[0] if k in schedules[1] and schedules[0][k][field] != schedules[1][k][field]]
        if other:
            yield Difference("positions", f"{field} at {listed(other)}", *(each[other[0]][field] for each in schedules))


def _shards(a: DatasetInfo, b: DatasetInfo) -> Iterator[Difference]:
    records = [{record.path: record for record in info.shards if record} for info in (a, b)]
    yield from missing("shards", list(records[0]), list(records[1]), "shard")
    if other := [path for path in records[0] if path in records[1] and records[0][path] != records[1][path]]:
        yield Difference("shards", listed(other), *(each[other[0]].sha256 for each in records))


def _columns(a: Bench, b: Bench) -> Iterator[Difference]:
    schemas = [arrow_schema(bench.info) for bench in (a, b)]
    yield from missing("columns", schemas[0].names, schemas[1].names, "column")
    types = [{field.name: _type(field.type) for field in schema} for schema in schemas]
    if other := [name for name in types[0] if name in types[1] and types[0][name] != types[1][name]]:
        yield Difference("columns", listed(other), *(each[other[0]] for each in types))


def _type(kind: Any) -> str:
    size = getattr(kind, "list_size", None)
    return f"{size} x {feature_type(kind.value_type)}" if size else feature_type(kind)


def _keys(bench: Bench) -> dict[tuple[str, int], tuple[int, str]]:
    """The number and prompt text of each row by prompt id and candidate."""
    keys, number = dict[tuple[str, int], tuple[int, str]](), 0
    for batch in bench.rows(["prompt_id", "prompt", "candidate"], 65536):
        columns = (batch[name].to_pylist() for name in ("prompt_id", "candidate", "prompt"))
        for prompt_id, candidate, text in zip(*columns, strict=True):
            keys[prompt_id, candidate] = number, text
            number += 1
    return keys


def _rows(a: dict[tuple[str, int], tuple[int, str]], b: dict[tuple[str, int], tuple[int, str]]) -> Iterator[Difference]:
    prompts = [{prompt: text for (prompt, _), (_, text) in rows.items()} for rows in (a, b)]
    yield from missing("prompts", list(prompts[0]), list(prompts[1]), "prompt")
    if other := [each for each in prompts[0] if each in prompts[1] and prompts[0][each] != prompts[1][each]]:
        yield Difference("prompts", f"text of {listed(other)}", *(each[other[0]] for each in prompts))
    names = [[f"{prompt}/{candidate}" for prompt, candidate in rows] for rows in (a, b)]
    yield from missing("rows", names[0], names[1], "row")
    common = [[key for key in rows if key in a and key in b] for rows in (a, b)]
    if common[0] != common[1]:
        place = next(number for number, pair in enumerate(zip(*common, strict=True)) if pair[0] != pair[1])
        yield Difference("rows", f"order, from row {place}", *("/".join(map(str, rows[place])) for rows in common))


def _equal_shards(a: DatasetInfo, b: DatasetInfo, row_a: int, row_b: int) -> bool:
    """Whether two rows are at the same place of shards with equal records."""
    shards = a.shard_of(row_a), b.shard_of(row_b)
    places = [
        row - info.shard_rows(shard).start for row, info, shard in zip((row_a, row_b), (a, b), shards, strict=True)
    ]
    return a.shards[shards[0]] == b.shards[shards[1]] and places[0] == places[1]


def _references(a: Bench, b: Bench) -> Iterator[Difference | ValueDifference]:
    yield from missing("references", list(a.references), list(b.references), "reference")
    for name in (name for name in a.references if name in b.references):
        tables = [bench.references[name] for bench in (a, b)]
        origins = [scores_metadata(table) for table in tables]
        for origin, bench in zip(origins, (a, b), strict=True):
            if origin.get("bench_fingerprint") == bench.info.fingerprint:
                origin["bench_fingerprint"] = "of its own data set"
        yield from settings("references", {name: origins[0]}, {name: origins[1]})
        yield from table_differences(name, *tables)
