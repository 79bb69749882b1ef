"""What a build will cost: trajectories, denoiser rows and bytes, from configurations and without loading weights."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ...errors import NbenchError
from ...shards.encoding import Int8Encoding
from ...shards.row_columns import array_columns, column_bytes
from ...shards.schema import DatasetInfo, PositionInfo
from ...shards.signals import ArrayColumn, activations_of
from ..config import BuildConfig
from ..first_look import first_look_rows
from ..process import process_of
from ..process.served import is_served
from ..spec import empty_dataset
from .counts import Count
from .pipeline_config import read_setup

SHARES = {"float16": 0.85, "float32": 0.83, "int8": 1.33}
"""Stored bytes per raw byte in Parquet (byte stream split and zstd), measured on latents of the embedded world and on
Gaussian ones (0.847, 0.842, 1.346). Parquet stores an int8 as 4 bytes, of which zstd leaves more than one."""
X0_SHARES = {"float16": 0.78, "float32": 0.78, "int8": 1.24}
"""The same for x0 estimates, which are smoother."""
DICTIONARY_SHARE = 0.98
"""The same for int8 latents and x0 estimates that are encoded by dictionaries."""
TEXT_SHARE = 0.18
"""The same for texts as JSON."""
_FOOTER_BYTES, _TEXT_COLUMNS = 400, 15
_TAR_BLOCK, _NPY_HEADER, _JSON_FLOAT = 512, 128, 25


@dataclass(frozen=True)
class ColumnCost:
    """Bytes of a column in the whole data set: raw, and expected on disk."""

    name: str
    raw_bytes: int
    stored_bytes: int


@dataclass(frozen=True)
class Costs:
    """What a build makes; its first look makes `first_look` more trajectories, which are not stored.

    `denoiser_rows` counts all rows that the denoiser computes, with guidance and the first look. The forward process
    has none, and encodes `encoder_rows` images instead.
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
    def all_trajectories(self) -> int:
        """Trajectories with the first look."""
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
    """What the build of `config` will make and store.

    Raises:
        NbenchError: the configuration of the pipeline, the prompts or the images cannot be read, or cannot be
            counted without fetching them.
    """
    if is_served(config.pipeline):
        raise NbenchError("what a server makes is not known before it is asked: plan with the name of its pipeline")
    process, setup = process_of(config), read_setup(config.pipeline, config.options)
    count = process.count(setup.image_size)
    spec = {
        "kind": config.kind,
        "steps": config.n_steps,
        "prompts": {"count": count.prompts},
        "candidates": count.candidates,
        "rows_per_shard": config.rows_per_shard,
        "format": config.format,
        "latent_dtype": config.latent_dtype,
    }
    positions = [PositionInfo(k, None, None, 1.0) for k in config.stored]
    info = empty_dataset(spec, setup.latent_shape, setup.image_size, positions, signals=config.signals)
    first_look = first_look_rows(setup.has_preview, count.prompts)
    trajectories, (rows_a_step, images_encoded) = info.rows + first_look, process.row_work(setup.rows_a_step)
    notes = [
        f"{layer.name}: not counted, since only the weights tell its width"
        for layer in activations_of(config.signals)
        if layer.width is None
    ]
    return Costs(
        kind=config.kind,
        pipeline=config.pipeline,
        process=config.process,
        prompts=count.prompts,
        prompts_known_from=count.known_from,
        candidates=count.candidates,
        trajectories=info.rows,
        first_look=first_look,
        steps=config.n_steps,
        rows_a_step=rows_a_step,
        denoiser_rows=trajectories * config.n_steps * rows_a_step,
        encoder_rows=trajectories * images_encoded,
        batch_size=config.batch_size or setup.batch_size,
        latent_shape=setup.latent_shape,
        image_size=setup.image_size,
        format=config.format,
        latent_dtype=config.latent_dtype,
        rows_per_shard=info.rows_per_shard,
        shards=len(info.shards),
        columns=tuple(_columns(info, count)),
        notes=tuple(notes),
    )


def _columns(info: DatasetInfo, count: Count) -> Iterable[ColumnCost]:
    arrays, tar, text_bytes = array_columns(info), info.format == "webdataset", count.text_bytes
    for name, column in arrays.items():
        raw = _numbers(column)
        stored = _tar_bytes(column) if tar else round(raw * _share(name, column, info.int8_encoding))
        yield ColumnCost(name, raw * info.rows, stored * info.rows)
    pixels = 3 * math.prod(info.image_size)
    png = round(pixels * count.png_share)
    yield ColumnCost("image", pixels * info.rows, info.rows * (_member(png) if tar else png))
    stored = _member(text_bytes) if tar else round(text_bytes * TEXT_SHARE)
    yield ColumnCost("texts", text_bytes * info.rows, stored * info.rows)
    ends = 2 * _TAR_BLOCK if tar else _FOOTER_BYTES * (len(arrays) + _TEXT_COLUMNS)
    yield ColumnCost("ends of files", ends * len(info.shards), ends * len(info.shards))


def _numbers(column: ArrayColumn) -> int:
    return 4 * math.prod(column.shape) if column.scale else column_bytes([column])


def _share(name: str, column: ArrayColumn, int8_encoding: Int8Encoding) -> float:
    if column.scale or name == "cfg_gap":
        return 1.0
    if column.element == "int8" and int8_encoding == "dictionary":
        return DICTIONARY_SHARE
    if name.startswith(("x0_", "x0at")):
        return X0_SHARES[column.element]
    return SHARES[column.element]


def _tar_bytes(column: ArrayColumn) -> int:
    """One member per column; the scales of int8 are in the member of the texts."""
    return _JSON_FLOAT * math.prod(column.shape) if column.scale else _member(_NPY_HEADER + _numbers(column))


def _member(size: int) -> int:
    """A header, and the content in whole blocks."""
    return _TAR_BLOCK * (1 + -(-size // _TAR_BLOCK))
