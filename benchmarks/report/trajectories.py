"""Compact trajectories: a prompt's previews as one picture, one row per candidate and one column per position."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image

from ...shards.inspect import preview_image
from ...shards.reader import Bench, BenchPrompt
from ...shards.rows import columns_of, from_arrow

_BATCH_ROWS = 64
_MOST_PIXELS = 16383
"""Longest side of a WebP."""


class Size(NamedTuple):
    """Maximum longest side of a preview and of a final image, in pixels, and the WebP quality of both."""

    preview: int
    image: int
    quality: int


SIZES = (
    Size(128, 512, 80),
    Size(128, 384, 70),
    Size(96, 256, 80),
    Size(96, 192, 80),
    Size(96, 192, 50),
    Size(64, 160, 60),
    Size(64, 160, 35),
    Size(48, 128, 40),
    Size(32, 96, 50),
    Size(16, 64, 50),
)


@dataclass(frozen=True)
class Sprites:
    """A prompt's candidates as data URIs; failed ones are blank.

    previews: tiles of `preview_size` (width, height), one row per candidate, one column per position; "" without a
    preview map. images: tiles of `image_size`, one row per candidate.
    """

    previews: str
    preview_size: tuple[int, int]
    images: str
    image_size: tuple[int, int]


@dataclass(frozen=True)
class Trajectories:
    """A prompt's candidates; present: those that did not fail.

    previews: uint8 [N, K, h, w, 3] by the linear map, None without one; images: uint8 [N, H, W, 3]; 0 where failed.
    """

    prompt: BenchPrompt
    present: tuple[bool, ...]
    previews: np.ndarray | None
    images: np.ndarray

    def sprites(self, size: Size) -> Sprites:
        """The pictures scaled down to `size`; smaller ones keep their size."""
        n = len(self.images)
        images = _sheet(self.images[:, None], size.image, size.quality)
        if self.previews is None:
            return Sprites("", (0, 0), *images)
        most = min(size.preview, _MOST_PIXELS // max(n, self.previews.shape[1]))
        return Sprites(*_sheet(self.previews, most, size.quality), *images)


def spread(items: Sequence[object], count: int) -> list[int]:
    """The indices of at most `count` items, evenly spread over all."""
    return sorted({round(number) for number in np.linspace(0, len(items) - 1, min(count, len(items)))})


def trajectories(bench: Bench, numbers: Sequence[int], positions: Sequence[int]) -> Iterator[Trajectories]:
    """The trajectories of the prompts with these numbers, in the bench's order; only shards that hold any are read."""
    info = bench.info
    read = tuple(positions) if info.preview is not None else ()
    columns = columns_of(info, read, images=True)
    prompts = {row: number for number in numbers for row in info.rows_of(number)}
    canvases, left = dict[int, _Canvas](), Counter(prompts.values())
    for index in range(len(info.shards)):
        first = info.shard_rows(index).start
        if prompts.keys().isdisjoint(info.shard_rows(index)):
            continue
        for rows in bench.shard_rows(index, columns, _BATCH_ROWS):
            chosen = [(prompts[row], row - first) for row in range(first, first + len(rows)) if row in prompts]
            for number, places in groupby(chosen, itemgetter(0)):
                offsets = [offset for _, offset in places]
                if number not in canvases:
                    canvases[number] = _Canvas(bench, number, read)
                canvases[number].add(rows.slice(offsets[0], len(offsets)))
                left[number] -= len(offsets)
                if not left[number]:
                    yield canvases.pop(number).done()
            first += len(rows)


class _Canvas:
    """A prompt's pictures, filled row by row, maybe from several batches or shards."""

    def __init__(self, bench: Bench, number: int, positions: tuple[int, ...]) -> None:
        info = bench.info
        self.bench, self.number, self.positions = bench, number, positions
        self.present = [False] * info.candidates
        height, width = info.image_size
        self.images = np.zeros((info.candidates, height, width, 3), np.uint8)
        self.previews = np.zeros((info.candidates, len(positions), *info.latent_shape[1:], 3), np.uint8)

    def add(self, rows: pa.RecordBatch) -> None:
        info = self.bench.info
        batch = from_arrow(rows, info, self.positions, images=True)
        for row, candidate in enumerate(batch.candidates):
            self.present[candidate] = True
            if batch.images is not None:
                self.images[candidate] = batch.images[row]
            if info.preview is not None:
                for column, position in enumerate(self.positions):
                    self.previews[candidate, column] = preview_image(batch.latents[position][row], info.preview)

    def done(self) -> Trajectories:
        prompt, previews = self.bench.prompts[self.number], self.previews if self.positions else None
        return Trajectories(prompt, tuple(self.present), previews, self.images)


def _sheet(tiles: np.ndarray, most: int, quality: int) -> tuple[str, tuple[int, int]]:
    """Tiles uint8 [R, C, h, w, 3], scaled down to at most `most` pixels a side, as one WebP; and (width, height)."""
    rows, columns, height, width, _ = tiles.shape
    scale = min(1.0, most / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    sheet = Image.new("RGB", (columns * size[0], rows * size[1]))
    for row in range(rows):
        for column in range(columns):
            tile = Image.fromarray(tiles[row, column])
            tile = tile if tile.size == size else tile.resize(size, Image.Resampling.BOX)
            sheet.paste(tile, (column * size[0], row * size[1]))
    buffer = io.BytesIO()
    sheet.save(buffer, "webp", quality=quality, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}", size
