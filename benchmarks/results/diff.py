"""Compares two folders of results: models, positions, figures and scores."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ...console import counted
from ...errors import NbenchError
from ...shards.diff.report import Difference, DiffReport, ValueDifference, missing, settings
from ...shards.diff.tables import figure_difference, table_differences
from ...shards.scores import read_scores
from .result_file import EvaluationResult, read_result

_TABLES = ("rows", "comparisons", "selection", "separation", "retrieval", "skills", "summaries")
_KEYS = ("model", "other", "position", "reference", "kind", "direction", "k", "n", "level", "skill")
"""Fields by which the rows of a result's tables are matched; the others are figures."""
_UNCOMPARED = {"provenance", "cost", "format_version"}
"""Depend on when, where and with which versions an evaluation ran."""


def diff_results(a: Path, b: Path) -> DiffReport:
    """Compare all results in two folders, or two result files, by bench and model.

    Times, costs and machines are not compared; other versions of packages are notes.

    Raises:
        NbenchError: one has no results, or a file is damaged.
    """
    paths = [_results(place) for place in (a, b)]
    if a.is_file() and b.is_file():  # whatever their names
        paths = [{next(iter(paths[0])): path for path in each.values()} for each in paths]
    results = [{name: read_result(path) for name, path in each.items()} for each in paths]
    found: list[Difference | ValueDifference] = [*missing("results", list(results[0]), list(results[1]), "result")]
    common = [name for name in results[0] if name in results[1]]
    notes = dict[str, None]()
    for name in common:
        ours, theirs = (each[name] for each in results)
        found += _result(name, ours, theirs)
        found += _scores(name, *(each[name].with_suffix(".parquet") for each in paths))
        notes |= dict.fromkeys(_versions(ours, theirs))
    return DiffReport(
        "results",
        str(a),
        str(b),
        counted(len(common), "result"),
        tuple(each for each in found if isinstance(each, Difference)),
        tuple(each for each in found if isinstance(each, ValueDifference)),
        tuple(notes),
    )


def has_results(place: Path) -> bool:
    """Whether there may be results at `place`: a JSON file, or a folder with one somewhere in it."""
    return place.suffix == ".json" if place.is_file() else any(place.rglob("*.json"))


def _results(place: Path) -> dict[str, Path]:
    """The result files by `bench/model`, or by model where all are of one folder."""
    paths = [place] if place.is_file() else sorted(place.rglob("*.json"))
    if not paths:
        raise NbenchError(f"no results in {place}: give a folder that nbench evaluate wrote, or a data set")
    return {str(path.relative_to(place if place.is_dir() else place.parent).with_suffix("")): path for path in paths}


def _result(name: str, a: EvaluationResult, b: EvaluationResult) -> Iterator[Difference | ValueDifference]:
    contents = [json.loads(each.model_dump_json()) for each in (a, b)]
    facts = [{key: value for key, value in each.items() if key not in {*_TABLES, *_UNCOMPARED}} for each in contents]
    yield from settings(name, *facts)
    for table in _TABLES:
        yield from _table(name, table, *(content[table] for content in contents))


def _table(name: str, table: str, a: list[Any], b: list[Any]) -> Iterator[Difference | ValueDifference]:
    sides = [{_key(row): row for row in rows} for rows in (a, b)]
    names = [[f"{table}: {_name(key)}" for key in side] for side in sides]
    yield from missing(name, names[0], names[1], "row")
    keys = [key for key in sides[0] if key in sides[1]]
    for figure in dict.fromkeys(
        figure for key in keys for side in sides for figure in side[key] if figure not in _KEYS
    ):
        values = [{key: _numbers(side[key].get(figure)) for key in keys} for side in sides]
        cells = [(_name(key), *pair) for key in keys for pair in _aligned(values[0][key], values[1][key])]
        label = figure if table == "rows" else f"{table} {figure}"
        if difference := figure_difference(f"{name}: {label}", cells):
            yield difference


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(key) for key in _KEYS)


def _name(key: Sequence[Any]) -> str:
    parts = [f"{name} {value}" for name, value in zip(_KEYS, key, strict=True) if value is not None and name != "model"]
    return ", ".join(parts)


def _numbers(value: Any) -> list[float | None]:
    """The figures of a cell: one, the ends of an interval, or the values of a mapping."""
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, list) else [value]


def _aligned(a: list[float | None], b: list[float | None]) -> Iterator[tuple[float | None, float | None]]:
    length = max(len(a), len(b))
    yield from zip(a + [None] * (length - len(a)), b + [None] * (length - len(b)), strict=True)


def _scores(name: str, a: Path, b: Path) -> Iterator[Difference | ValueDifference]:
    tables: list[pa.Table] = [read_scores(path) for path in (a, b) if path.exists()]
    if len(tables) == 2:
        yield from table_differences(name, *tables)
    elif tables:
        count = counted(tables[0].num_rows, "row")
        yield Difference("scores", name, *((count, None) if a.exists() else (None, count)))


def _versions(a: EvaluationResult, b: EvaluationResult) -> Iterator[str]:
    stated = [{"nbench": each.provenance.nbench} | each.provenance.packages for each in (a, b)]
    for each in settings("versions", *stated):
        yield f"{each.name} {each.a or 'unknown'} made A, {each.b or 'unknown'} made B"
