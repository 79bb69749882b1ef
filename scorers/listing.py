"""The tables of `nbench models`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..console import plain_table
from .builtin import BUILTIN
from .families import FAMILIES, REREADINGS
from .registry import plugins, unknown

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("name", "reads", "weights", "size", "range", "direction", "paper", "package", "about")


def list_models() -> list[dict[str, str]]:
    """One row per scorer: what it reads, its weights and their size, the range of its scores, its paper.

    Raises:
        NbenchError: two scorers have one name.
    """
    rows = [
        _row(name, entry.reads, entry.weights, entry.size, entry.range, entry.paper, entry.package)
        for name, entry in BUILTIN.items()
    ]
    rows += [_row(name, "", point.value, "", "", "", _package(point), "a plug-in") for name, point in plugins().items()]
    rows += [
        _row(
            f"{name}:{family.model}",
            family.reads,
            family.model,
            "",
            family.range,
            family.paper,
            family.package,
            family.about,
        )
        for name, family in FAMILIES.items()
    ]
    return rows + [
        _row(f"{name}:SCORER", reads, "", "", "the scorer's", "", about="any scorer of images")
        for name, reads in REREADINGS.items()
    ]


def find_model(name: str) -> dict[str, str]:
    """The row of a scorer; a family's name alone is enough.

    Raises:
        NbenchError: no such scorer.
    """
    rows = list_models()
    for row in rows:
        if name == row["name"] or (_takes_a_model(row) and name == row["name"].partition(":")[0]):
            return row
    raise unknown("scorer", name, sorted({row["name"].partition(":")[0] for row in rows}))


def models_tables(rows: list[dict[str, str]]) -> tuple[Table, Table]:
    """The rows for a terminal of 80 columns: named scorers, and families that take a model."""
    columns = ("name", "reads", "size", "range", "paper")
    title = "scorers; higher is better (more: nbench models show NAME)"
    named = plain_table(*columns, title=title, left=columns)
    kinds = ("name", "reads", "what it is")
    families = plain_table(*kinds, title="with a model of your own", left=kinds)
    for row in rows:
        if _takes_a_model(row):
            families.add_row(row["name"], row["reads"], row["about"])
        else:
            named.add_row(*(row[column] for column in ("name", "reads", "size", "range")), row["paper"] or row["about"])
    return named, families


def _takes_a_model(row: dict[str, str]) -> bool:
    return ":" in row["name"] and bool(row["about"])  # image:clip is a complete name


def _row(
    name: str, reads: str, weights: str, size: str, span: str, paper: str, package: str = "", about: str = ""
) -> dict[str, str]:
    cells = (name, reads, weights, size, span, "higher is better", paper, package, about)
    return dict(zip(COLUMNS, cells, strict=True))


def _package(point: object) -> str:
    dist = getattr(point, "dist", None)
    return "" if dist is None else str(dist.name)
