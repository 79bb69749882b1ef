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
    """The images of a data set on the Hub, at its current commit.

    Args:
        image_columns: the columns of the images, the candidates of a prompt in this order. Default: in GenAI-Bench one
            per rated model, elsewhere image, jpg, png or webp.

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
        raise NbenchError(f"{table.place}: no column of images: name one with --image-column")
    models = columns if len(columns) > 1 or rated else ()
    ratings = _ratings(table, columns) if set(columns) & set(rated) else None
    return ImageSource(table, len(columns), _Cursor(table, columns), models, ratings, commit)


class _Cursor:
    """Reads rows of a stream in ascending order; an earlier row restarts the stream."""

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
            ratings = row.get(RATINGS) or {model: row.get(f"{model}{_OLD_RATINGS}") for model in models}
            yield [_mean(ratings.get(model)) for model in models]

    return read


def _mean(value: object) -> float:
    """The mean of a list of ratings, which the older schema stores as text; NaN if there are none."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return math.nan
    items = value if isinstance(value, list) else [value]
    numbers = [float(item) for item in items if isinstance(item, int | float) and math.isfinite(item)]
    return fmean(numbers) if numbers else math.nan
