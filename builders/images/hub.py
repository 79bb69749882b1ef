"""Images on the Hub: GenAI-Bench with its human ratings, or any data set with a column of images; streamed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from ...errors import NbenchError
from ..prompts.hub import hub_table, pinned
from ..prompts.rows import Table
from .source import ImageSource

IMAGE_COLUMNS = ("image", "jpg", "png", "webp")
RATINGS, _OLD_RATINGS = "HumanRatings", "_HumanRating"


def hub_images(text: str, image_columns: Sequence[str] = ()) -> ImageSource:
    """The images of a data set on the Hub as it now stands: its commit is noted, and read from then on.

    Args:
        image_columns: the columns of the images, the candidates of a prompt in this order. None: in GenAI-Bench one for
            each model that was rated, elsewhere image, jpg, png or webp.

    Raises:
        NbenchError: no such data set, or no such columns.
    """
    address, commit = pinned(text)
    table = hub_table(address)
    rated = _rated(table)
    columns = tuple(image_columns or rated or [name for name in IMAGE_COLUMNS if name in table.columns][:1])
    if unknown := [name for name in columns if name not in table.columns]:
        raise NbenchError(f"{table.place}: no column {unknown[0]!r} (it has {', '.join(table.columns)})")
    if not columns:
        raise NbenchError(f"{table.place}: no column of images is known: name it with --image-column")
    models = columns if len(columns) > 1 or rated else ()
    ratings = _ratings(table, columns) if set(columns) & set(rated) else None
    return ImageSource(table, len(columns), _Cursor(table, columns), models, ratings, commit)


class _Cursor:
    """Reads rows of a stream in ascending order; it starts over for one that lies behind it."""

    def __init__(self, table: Table, columns: Sequence[str]) -> None:
        self._table, self._columns, self._at = table, columns, -1
        self._rows: Iterator[Mapping[str, Any]] = iter(())
        self._row: Mapping[str, Any] = {}

    def __call__(self, row: int, candidate: int) -> bytes | None:
        if row < self._at or self._at < 0:
            self._rows, self._at = self._table.read(list(self._columns)), -1
        while self._at < row:
            self._row, self._at = next(self._rows, {}), self._at + 1
        value = self._row.get(self._columns[candidate])
        data = value.get("bytes") if isinstance(value, Mapping) else None
        return data if isinstance(data, bytes) else None


def _rated(table: Table) -> list[str]:
    """The columns of images that people rated, by the two schemas of GenAI-Bench."""
    old = [name.removesuffix(_OLD_RATINGS) for name in table.columns if name.endswith(_OLD_RATINGS)]
    new = next(table.read([RATINGS]), {}).get(RATINGS) if RATINGS in table.columns else None
    return [name for name in (new if isinstance(new, Mapping) else old) if name in table.columns]


def _ratings(table: Table, models: Sequence[str]) -> Callable[[], Iterator[Sequence[float]]]:
    def read() -> Iterator[Sequence[float]]:
        columns = [RATINGS] if RATINGS in table.columns else [f"{model}{_OLD_RATINGS}" for model in models]
        for row in table.read([name for name in columns if name in table.columns]):
            given = row.get(RATINGS) or {model: row.get(f"{model}{_OLD_RATINGS}") for model in models}
            yield [_mean(given.get(model)) for model in models]

    return read


def _mean(value: object) -> float:
    """Of a list of ratings, which the older schema writes as text; NaN where there are none."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return math.nan
    numbers = value if isinstance(value, list) else [value]
    known = [float(one) for one in numbers if isinstance(one, int | float) and math.isfinite(one)]
    return fmean(known) if known else math.nan
