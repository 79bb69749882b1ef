"""What a build will cost: trajectories, denoiser calls and bytes from configurations alone, no weights loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from ..shards.schema import DatasetInfo, PositionInfo, array_columns, column_bytes
from ..shards.signals import ArrayColumn, activations_of
from .config import KINDS, BuildConfig
from .corruptions import corrupt_prompts
from .plan import rows_a_shard
from .prompts import Prompt, load_prompts
from .setup import Setup, read_setup

KNOWN_PROMPTS = {"cc12m": 10_965_172, "genai-bench": 1_600, "genai-bench-527": 527}
"""Prompts of the sets that have a name, as known when this was written: none is fetched to be counted."""
PREVIEW_ROWS = 16
"""Trajectories that a build makes twice: a first look, from which it fits the preview."""

SHARES = {"float16": 0.85, "float32": 0.83, "int8": 1.33}
"""Stored bytes of a raw one in Parquet (byte stream split and zstd), measured on latents of the embedded world and on
Gaussian ones (0.847, 0.842, 1.346). An int8 is 4 bytes to Parquet, of which zstd leaves more than one."""
X0_SHARES = {"float16": 0.78, "float32": 0.78, "int8": 1.24}
"""The same of x0 estimates, which are smoother."""
TEXT_SHARE, PNG_SHARE, WORLD_PNG_SHARE = 0.18, 0.5, 0.40
"""Of texts as JSON; of RGB as PNG, assumed for photographs and measured on the embedded world."""
UNSEEN_TEXT_BYTES = 500
"""Assumed for the texts of a row, as JSON, where the prompts are not at hand."""
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
    """What a build makes. `denoiser_rows` is what the denoiser computes, guidance and the first look included."""

    kind: str
    pipeline: str
    prompts: int
    prompts_known_from: str
    candidates: int
    trajectories: int
    steps: int
    rows_a_step: int
    denoiser_rows: int
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
        NbenchError: a pipeline whose configuration cannot be read, or prompts that cannot.
    """
    setup = read_setup(config.pipeline, config.pipeline_options)
    prompts, known_from, text_bytes = _prompts(config)
    info = _info(config, setup, prompts)
    per_shard = config.rows_per_shard or rows_a_shard(info.row_bytes, config.n_candidates)
    shards = -(-info.rows // per_shard)
    looked_at = min(1 if setup.has_preview else PREVIEW_ROWS, prompts)
    world = config.pipeline == "shapes"
    notes = [
        f"{layer.name}: its width is the layer's, which only the weights tell; not counted"
        for layer in activations_of(config.signals)
        if layer.width is None
    ]
    return Costs(
        kind=config.kind,
        pipeline=config.pipeline,
        prompts=prompts,
        prompts_known_from=known_from,
        candidates=config.n_candidates,
        trajectories=info.rows,
        steps=config.n_steps,
        rows_a_step=setup.rows_a_step,
        denoiser_rows=(info.rows + looked_at) * config.n_steps * setup.rows_a_step,
        batch_size=config.batch_size or setup.batch_size,
        latent_shape=setup.latent_shape,
        image_size=setup.image_size,
        format=config.format,
        latent_dtype=config.latent_dtype,
        rows_per_shard=per_shard,
        shards=shards,
        columns=tuple(_columns(info, shards, text_bytes, WORLD_PNG_SHARE if world else PNG_SHARE)),
        notes=tuple(notes),
    )


def _prompts(config: BuildConfig) -> tuple[int, str, int]:
    """How many, whence that is known, and bytes of a row's texts; published sets are not fetched to be counted."""
    request = config.prompt_request
    known = None if request.tags else KNOWN_PROMPTS.get(str(request.source))
    if known is not None:
        count = min(known, request.limit or known, request.sample or known)
        return count, f"{known:,} in {request.source}, not counted now", UNSEEN_TEXT_BYTES
    prompts = load_prompts(request, config.kind).prompts
    if config.kind == "ncc":
        prompts = corrupt_prompts(prompts)
    return len(prompts), "counted", _text_bytes(prompts)


def _text_bytes(prompts: Iterable[Prompt]) -> int:
    """Of a row, on average, as JSON."""
    sizes = [
        len(json.dumps({**asdict(prompt), "candidate": 0, "seed": 2**62, "status": "ok", "key": prompt.id}).encode())
        for prompt in prompts
    ]
    return -(-sum(sizes) // len(sizes))


def _info(config: BuildConfig, setup: Setup, prompts: int) -> DatasetInfo:
    """The record that the build would begin with, as far as its columns and sizes go."""
    kind = KINDS[config.kind]
    return DatasetInfo(
        format_version=1,
        name=kind.name,
        split=kind.split,
        fingerprint="",
        spec={},
        latent_shape=setup.latent_shape,
        format=config.format,
        latent_dtype=config.latent_dtype,
        image_size=setup.image_size,
        steps=config.n_steps,
        candidates=config.n_candidates,
        n_prompts=prompts,
        rows=prompts * config.n_candidates,
        rows_per_shard=1,
        positions=tuple(PositionInfo(k, None, None, 1.0) for k in config.stored),
        preview=None,
        shards=(),
        signals=config.signals,
    )


def _columns(info: DatasetInfo, shards: int, text_bytes: int, png_share: float) -> Iterable[ColumnCost]:
    arrays, tar = array_columns(info), info.format == "webdataset"
    for name, column in arrays.items():
        raw = _numbers(column)
        kept = _tar_bytes(column) if tar else round(raw * _share(name, column))
        yield ColumnCost(name, raw * info.rows, kept * info.rows)
    pixels = 3 * math.prod(info.image_size)
    png = round(pixels * png_share)
    yield ColumnCost("image", pixels * info.rows, info.rows * (_member(png) if tar else png))
    kept = _member(text_bytes) if tar else round(text_bytes * TEXT_SHARE)
    yield ColumnCost("texts", text_bytes * info.rows, kept * info.rows)
    ends = 2 * _TAR_BLOCK if tar else _FOOTER_BYTES * (len(arrays) + _TEXT_COLUMNS)
    yield ColumnCost("ends of files", ends * shards, ends * shards)


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
