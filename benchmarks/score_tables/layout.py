"""Score tables as arrays: the cell of each image, and the values of the cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ...errors import NbenchError
from ...shards.scores import PROMPT
from ..metrics.arrays import Array
from .table import IMAGE_COLUMNS, ScoreTable, key_of, positions_of

Indices = NDArray[np.int64]

_MAX_CELLS = 2**27


@dataclass(frozen=True)
class Layout:
    """The cell of each image in arrays.

    Attributes:
        column: the column with the ids of images: candidate, image or model.
        prompts, images: all ids, as text.
        pairs: index of the prompt * number of images + index of the image, ascending [U]; cells: their flat cells [U].
        shape: of the arrays.
    """

    column: str
    prompts: pa.Array
    images: pa.Array
    pairs: Indices
    cells: Indices
    shape: tuple[int, ...]

    @classmethod
    def grid(cls, tables: Sequence[ScoreTable], of: Sequence[ScoreTable] | None = None) -> Layout:
        """[P, N] for all rows of `of` (default: all tables), by an image column that all of `tables` have.

        Prompts are sorted by id, numerically if all ids are numbers; so are the images within each prompt. Image ids
        may differ between prompts, e.g. seeds.

        Raises:
            NbenchError: no column in common, or far more cells than memory holds.
        """
        column = _shared(tables)
        prompts, images, pairs = _pairs(tables if of is None else of, column)
        owners, of_prompt = np.unique(pairs // len(images), return_inverse=True)
        first = np.searchsorted(of_prompt, np.arange(len(owners)))
        number = np.arange(len(pairs)) - first[of_prompt]
        shape = len(owners), int(number.max()) + 1
        _check_size(shape, tables[0].place)
        return cls(column, prompts, images, pairs, of_prompt * shape[1] + number, shape)

    @classmethod
    def of_bench(cls, prompts: Sequence[str] | pa.Array, candidates: int) -> Layout:
        """[P, N] for these prompts of a bench, in this order, and its candidates 0..N-1."""
        ids = prompts if isinstance(prompts, pa.Array) else pa.array(prompts, pa.string())
        cells = np.arange(len(ids) * candidates)
        numbers = pa.array(map(str, range(candidates)), pa.string())
        return cls("candidate", ids, numbers, cells, cells, (len(ids), candidates))

    @classmethod
    def flat(cls, table: ScoreTable, other: ScoreTable) -> Layout:
        """[R] for the images of a table, prompt by prompt as in `grid`, by an image column that `other` has too.

        Raises:
            NbenchError: no column in common.
        """
        column = _shared([table, other])
        prompts, images, pairs = _pairs([table], column)
        return cls(column, prompts, images, pairs, np.arange(len(pairs)), (len(pairs),))

    def places(self, table: ScoreTable) -> Indices:
        """The flat cell of each row [M]; -1 if the layout has none."""
        prompts = _numbers(table.prompts, self.prompts)
        images = _numbers(table.images[self.column], self.images)
        pairs = np.where((prompts < 0) | (images < 0), -1, prompts * len(self.images) + images)
        at = np.searchsorted(self.pairs, pairs).clip(max=len(self.pairs) - 1)
        return np.where(self.pairs[at] == pairs, self.cells[at], -1)


def by_caption(table: ScoreTable, layout: Layout) -> dict[str, dict[int, Array]]:
    """Scores float [*shape] by caption (`prompt`, kinds of corruption) and position; NaN for missing scores.

    Raises:
        NbenchError: no positions, a duplicate key, or far more cells than memory holds.
    """
    positions, at = np.unique(positions_of(table), return_inverse=True)
    if table.captions is None:
        captions, kinds = [PROMPT], np.zeros(1, np.int64)
    else:
        captions, kinds = table.captions.dictionary.to_pylist(), _codes(table.captions)
    layers, layer = np.unique(kinds * len(positions) + at, return_inverse=True)
    filled = _filled(table, layout, layer, len(layers))
    by_kind: dict[str, dict[int, Array]] = {}
    for number, values in zip(layers.tolist(), filled, strict=True):
        kind, position = divmod(number, len(positions))
        by_kind.setdefault(captions[kind], {})[int(positions[position])] = values
    return by_kind


def of_prompts(table: ScoreTable, layout: Layout) -> dict[int, Array]:
    """Scores of the prompts themselves by position, as `by_caption`."""
    return by_caption(table, layout).get(PROMPT, {})


def image_values(table: ScoreTable, layout: Layout) -> Array:
    """The values float [*shape] of a table with at most one caption and one position.

    Raises:
        NbenchError: an image has two rows.
    """
    return _filled(table, layout, np.zeros(len(table.scores), np.int64), 1)[0]


def _filled(table: ScoreTable, layout: Layout, layer: Indices, layers: int) -> Array:
    """Values [layers, *shape]; layer: the layer of each row."""
    _check_once(table, layout.column, layer, layers)
    size = prod(layout.shape)
    _check_size((layers, *layout.shape), table.place)
    places = layout.places(table)
    in_layout = places >= 0
    filled = np.full(layers * size, np.nan)
    filled[(layer * size + places)[in_layout]] = table.scores[in_layout]
    return filled.reshape(layers, *layout.shape)


def _check_size(shape: tuple[int, ...], place: str) -> None:
    if prod(shape) > _MAX_CELLS:
        raise NbenchError(f"{place}: {shape[-1]} images of one prompt make {prod(shape):,} cells: measure it in parts")


def _check_once(table: ScoreTable, column: str, layer: Indices, layers: int) -> None:
    images = table.images[column]
    keys = (_codes(table.prompts) * len(images.dictionary) + _codes(images)) * layers + layer
    ordered = np.sort(keys)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(repeated):
        row = int(np.flatnonzero(np.isin(keys, repeated))[0])
        key = key_of(table, column, row)
        raise NbenchError(f"{table.place} has {key} more than once ({len(repeated)} such rows): keep one row per key")


def _shared(tables: Sequence[ScoreTable]) -> str:
    for column in IMAGE_COLUMNS:
        if all(column in table.images for table in tables):
            return column
    each = "; ".join(f"{table.place} has {', '.join(table.images)}" for table in tables)
    raise NbenchError(f"no column tells images apart in both tables ({each}): give both a column candidate")


def _pairs(tables: Sequence[ScoreTable], column: str) -> tuple[pa.Array, pa.Array, Indices]:
    """All prompts and images in order, and their existing pairs."""
    prompts = _in_order([table.prompts for table in tables])
    images = _in_order([table.images[column] for table in tables])
    pairs = [
        _numbers(table.prompts, prompts) * len(images) + _numbers(table.images[column], images) for table in tables
    ]
    distinct = pc.unique(pa.chunked_array([pa.array(part) for part in pairs])).to_numpy()
    return prompts, images, np.sort(distinct)


def _in_order(columns: Sequence[pa.DictionaryArray]) -> pa.Array:
    """The distinct ids of the columns, sorted: numerically if all are numbers, else as text."""
    texts = pc.unique(pa.chunked_array([column.dictionary for column in columns], pa.string()))
    if pc.all(pc.match_substring_regex(texts, r"^-?(0|[1-9]\d{0,17})$")).as_py():
        return texts.take(pc.sort_indices(texts.cast(pa.int64())))
    return texts.take(pc.sort_indices(texts))


def _codes(column: pa.DictionaryArray) -> Indices:
    return column.indices.to_numpy().astype(np.int64)


def _numbers(column: pa.DictionaryArray, ids: pa.Array) -> Indices:
    """The index of each row's id in `ids`; -1 if it is not there."""
    numbers = pc.index_in(column.dictionary, ids).fill_null(-1).to_numpy().astype(np.int64)
    return np.asarray(numbers[_codes(column)])
