"""What `nbench models` shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .builtin import BUILTIN, FAMILIES, REREADINGS
from .registry import plugins

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("name", "reads", "weights", "size", "range", "direction", "paper", "package")


def list_models() -> list[dict[str, str]]:
    """A row a scorer: what it reads, its weights and their parameters, the range of its scores, its paper.

    Raises:
        NbenchError: two scorers have one name.
    """
    rows = [
        _row(name, entry.reads, entry.weights, entry.size, entry.range, entry.paper, entry.package)
        for name, entry in BUILTIN.items()
    ]
    rows += [
        _row(f"{name}:{family.model}", "", family.model, "", "", family.about) for name, family in FAMILIES.items()
    ]
    rows += [_row(f"{name}:SCORER", reads, "", "", "", "any scorer of pictures") for name, reads in REREADINGS.items()]
    rows += [_row(name, "", point.value, "", "", "a plug-in", _package(point)) for name, point in plugins().items()]
    return rows


def models_table(rows: list[dict[str, str]]) -> Table:
    """The rows for a terminal."""
    from rich.table import Table

    shown = [column for column in COLUMNS if column != "direction"]
    table = Table(*shown, title="scorers; higher is better")
    for row in rows:
        table.add_row(*(row[column] for column in shown))
    return table


def _row(name: str, reads: str, weights: str, size: str, span: str, paper: str, package: str = "") -> dict[str, str]:
    return dict(zip(COLUMNS, (name, reads, weights, size, span, "higher is better", paper, package), strict=True))


def _package(point: object) -> str:
    dist = getattr(point, "dist", None)
    return "" if dist is None else str(dist.name)
