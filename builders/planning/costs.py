"""What a build will cost: trajectories, denoiser calls and bytes from configurations alone, no weights loaded."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ...shards.schema import DatasetInfo, PositionInfo, array_columns, column_bytes
from ...shards.signals import ArrayColumn, activations_of
from ..config import BuildConfig
from ..first_look import first_look_rows
from ..process import process_of
from ..spec import empty_dataset
from .counts import Count
from .pipeline_config import read_setup

SHARES = {"float16": 0.85, "float32": 0.83, "int8": 1.33}
"""Stored bytes of a raw one in Parquet (byte stream split and zstd), measured on latents of the embedded world and on
Gaussian ones (0.847, 0.842, 1.346). An int8 is 4 bytes to Parquet, of which zstd leaves more than one."""
X0_SHARES = {"float16": 0.78, "float32": 0.78, "int8": 1.24}
"""The same of x0 estimates, which are smoother."""
TEXT_SHARE = 0.18
"""The same of texts as JSON."""
_FOOTER_BYTES, _TEXT_COLUMNS = 400, 15
_TAR_BLOCK, _NPY_HEADER, _JSON_FLOAT = 512, 128, 25


@dataclass(frozen=True)
class ColumnCost:
    """Bytes of a column in the whole data set: of its numbers, and as they are expected to lie on disk."""

    name: str
    raw_bytes: int
    stored_bytes: int


@dataclass(frozen=True)
class Costs:
    """What a build makes; its first look makes `first_look` trajectories more, which are not kept.

    `denoiser_rows` is what the denoiser computes, guidance and the first look included. The forward process has none,
    and encodes `encoder_rows` images in their place.
    """

    kind: str
    pipeline: str
    process: Literal["reverse", "forward"]
    prompts: int
    prompts_known_from: str
    candidates: int
    trajectories: int
    first_look: int
    steps: int
    rows_a_step: int
    denoiser_rows: int
    encoder_rows: int
    batch_size: int
    latent_shape: tuple[int, int, int]
    image_size: tuple[int, int]
    format: str
    latent_dtype: str
    rows_per_shard: int
    shards: int
    columns: tuple[ColumnCost, ...]
    notes: tuple[str, ...] = ()

    @property
    def made(self) -> int:
        """Trajectories, the first look included."""
        return self.trajectories + self.first_look

    @property
    def raw_bytes(self) -> int:
        """Of all columns, uncompressed."""
        return sum(column.raw_bytes for column in self.columns)

    @property
    def stored_bytes(self) -> int:
        """Of all shards, as expected on disk."""
        return sum(column.stored_bytes for column in self.columns)


def estimate_costs(config: BuildConfig) -> Costs:
    """What the build that `config` asks for will make and keep.

    Raises:
        NbenchError: a pipeline whose configuration cannot be read, or prompts or images that cannot, or cannot be
            counted without being fetched.
    """
    process, setup = process_of(config), read_setup(config.pipeline, config.options)
    counted = process.count(setup.image_size)
    spec = {
        "kind": config.kind,
        "steps": config.n_steps,
        "prompts": {"count": counted.prompts},
        "candidates": counted.candidates,
        "rows_per_shard": config.rows_per_shard,
        "format": config.format,
        "latent_dtype": config.latent_dtype,
    }
    positions = [PositionInfo(k, None, None, 1.0) for k in config.stored]
    info = empty_dataset(spec, setup.latent_shape, setup.image_size, positions, signals=config.signals)
    looked_at = first_look_rows(setup.has_preview, counted.prompts)
    made, (rows_a_step, encoded) = info.rows + looked_at, process.row_work(setup.rows_a_step)
    notes = [
        f"{layer.name}: its width is the layer's, which only the weights tell; not counted"
        for layer in activations_of(config.signals)
        if layer.width is None
    ]
    return Costs(
        kind=config.kind,
        pipeline=config.pipeline,
        process=config.process,
        prompts=counted.prompts,
        prompts_known_from=counted.known_from,
        candidates=counted.candidates,
        trajectories=info.rows,
        first_look=looked_at,
        steps=config.n_steps,
        rows_a_step=rows_a_step,
        denoiser_rows=made * config.n_steps * rows_a_step,
        encoder_rows=made * encoded,
        batch_size=config.batch_size or setup.batch_size,
        latent_shape=setup.latent_shape,
        image_size=setup.image_size,
        format=config.format,
        latent_dtype=config.latent_dtype,
        rows_per_shard=info.rows_per_shard,
        shards=len(info.shards),
        columns=tuple(_columns(info, counted)),
        notes=tuple(notes),
    )


def _columns(info: DatasetInfo, counted: Count) -> Iterable[ColumnCost]:
    arrays, tar, text_bytes = array_columns(info), info.format == "webdataset", counted.text_bytes
    for name, column in arrays.items():
        raw = _numbers(column)
        kept = _tar_bytes(column) if tar else round(raw * _share(name, column))
        yield ColumnCost(name, raw * info.rows, kept * info.rows)
    pixels = 3 * math.prod(info.image_size)
    png = round(pixels * counted.png_share)
    yield ColumnCost("image", pixels * info.rows, info.rows * (_member(png) if tar else png))
    kept = _member(text_bytes) if tar else round(text_bytes * TEXT_SHARE)
    yield ColumnCost("texts", text_bytes * info.rows, kept * info.rows)
    ends = 2 * _TAR_BLOCK if tar else _FOOTER_BYTES * (len(arrays) + _TEXT_COLUMNS)
    yield ColumnCost("ends of files", ends * len(info.shards), ends * len(info.shards))


def _numbers(column: ArrayColumn) -> int:
    return 4 * math.prod(column.shape) if column.scale else column_bytes([column])


def _share(name: str, column: ArrayColumn) -> float:
    if column.scale or name == "cfg_gap":
        return 1.0
    if name.startswith("x0_"):
        return X0_SHARES[column.element]
    return SHARES[column.element]


def _tar_bytes(column: ArrayColumn) -> int:
    """A member of its own; the scales of int8 are in the member of the texts."""
    return _JSON_FLOAT * math.prod(column.shape) if column.scale else _member(_NPY_HEADER + _numbers(column))


def _member(size: int) -> int:
    """A header, and the content in whole blocks."""
    return _TAR_BLOCK * (1 + -(-size // _TAR_BLOCK))
