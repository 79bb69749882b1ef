"""What a comparison of two data sets or results found, and its table."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import RenderableType

from ...console import counted, plain_table, stacked

_SHOWN = 24
"""Characters of a value in the table; digests are shortened."""


@dataclass(frozen=True)
class Difference:
    """A fact that differs: its part (settings, shards, rows, ...), its name, and its values; None: not there."""

    part: str
    name: str
    a: Any
    b: Any


@dataclass(frozen=True)
class ValueDifference:
    """Values that differ: of a column, of a score table or of a figure.

    compared, differ: rows; absolute: largest |a - b|; relative: largest |a - b| / |a| of a row, by Euclidean norms for
    lists; both None for texts, or where one side has no value; first: the first row that differs.
    """

    name: str
    compared: int
    differ: int
    absolute: float | None
    relative: float | None
    first: str


@dataclass(frozen=True)
class DiffReport:
    """All differences between `a` and `b`, of a kind ("data sets" or "results").

    compared: what was compared, in words. notes do not count as differences.
    """

    kind: str
    a: str
    b: str
    compared: str
    differences: tuple[Difference, ...]
    values: tuple[ValueDifference, ...]
    notes: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not self.differences and not self.values

    def to_json(self) -> str:
        """What `nbench diff --json` prints; infinite and undefined figures are null."""
        return json.dumps(_finite({"same": self.same} | asdict(self)))

    def table(self) -> RenderableType:
        """The differences as tables for the terminal."""
        tables = []
        if self.differences:
            facts = plain_table("part", "what", "A", "B", left=("part", "what", "A", "B"))
            for each in self.differences:
                facts.add_row(each.part, each.name, shown(each.a), shown(each.b))
            tables.append(facts)
        if self.values:
            values = plain_table("values", "rows", "differ", "absolute", "relative", "first", left=("values", "first"))
            for value in self.values:
                figures = ("-" if each is None else f"{each:.2g}" for each in (value.absolute, value.relative))
                values.add_row(value.name, f"{value.compared:,}", f"{value.differ:,}", *figures, value.first)
            tables.append(values)
        return stacked(tables)

    def summary(self) -> str:
        """One sentence."""
        if self.same:
            return f"A and B are the same: {self.compared}"
        counts = Counter([each.part for each in self.differences] + ["values"] * len(self.values))
        parts = ", ".join(f"{part} ({count})" for part, count in counts.items())
        return f"A and B differ in {parts}; compared: {self.compared}"


def shown(value: Any) -> str:
    """A value in a cell: digests by their start, long texts cut, "-" for nothing."""
    if value is None:
        return "-"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if re.fullmatch(r"[0-9a-f]{32,}", text):
        return f"{text[:8]}..."
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def listed(names: Sequence[object]) -> str:
    """The first of some names and how many more there are."""
    return f"{names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def missing(part: str, a: Sequence[str], b: Sequence[str], noun: str) -> Iterator[Difference]:
    """The names that only one side has, as at most two differences; `noun` counts them."""
    for own, other, in_a in ((a, set(b), True), (b, set(a), False)):
        if only := [name for name in own if name not in other]:
            count = counted(len(only), noun)
            yield Difference(part, listed(only), count if in_a else None, None if in_a else count)


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """The leaves of nested mappings by dotted names.

    >>> flat({"a": {"b": 1}, "c": [2]})
    {'a.b': 1, 'c': [2]}
    """
    if not isinstance(value, dict):
        return {name: value}
    return {key: leaf for part in value for key, leaf in flat(value[part], f"{name}.{part}".lstrip(".")).items()}


def settings(part: str, a: dict[str, Any], b: dict[str, Any]) -> Iterator[Difference]:
    """The leaves in which two mappings differ."""
    left, right = flat(a), flat(b)
    for name in dict.fromkeys([*left, *right]):
        if left.get(name) != right.get(name):
            yield Difference(part, name, left.get(name), right.get(name))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not abs(value) < float("inf") else value
