"""The schema of a data set: the fields of dataset.json, and the columns of a shard."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from ..errors import NbenchError, one_line
from .encoding import Int8Encoding, check_int8_encoding
from .signals import DEFAULT_SIGNALS, activations_of, estimates_of, normal_signals

CORRUPTION_KINDS = ("subject", "colour", "quantity", "background")
SKILL_LEVELS = ("basic", "advanced")
BYTES = {"float16": 2, "float32": 4, "int8": 1}
"""Bytes per stored number, by dtype."""
_MAX_SIZE, _MAX_NUMBERS = 2**31 - 1, 2**28
"""Limits of any size, and of the numbers in a row: 1 GiB of float32, which a reader allocates."""
SUFFIXES = {"parquet": "parquet", "webdataset": "tar"}
_strict = with_config(ConfigDict(extra="forbid"))

Tags = dict[str, list[str]]
Corruptions = Mapping[str, str | None]
"""A caption per kind; None if the prompt has nothing of that kind to change."""


@_strict
@dataclass(frozen=True)
class PositionInfo:
    """Position k of a run: the input of step k. The last one, the finished latent, has no timestep and sigma 0.

    `sigma` is the scheduler's own, None if it has none; the denoiser sees latent * `input_scale`.
    """

    position: int
    timestep: float | None
    sigma: float | None
    input_scale: float


@_strict
@dataclass(frozen=True)
class PreviewMap:
    """RGB = weight @ latent + bias per latent pixel; the caller clamps the result to 0..1."""

    weight: tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]
    bias: tuple[float, float, float]


@dataclass(frozen=True)
class LatentSpace:
    """What scorers and decoders need to know about latents [C, h, w], from a data set or a pipeline.

    Attributes:
        pipeline: alias, folder, Hub id or class of the pipeline that makes these latents.
        image_size: height and width of the finished image in pixels; (0, 0) if unknown before the run.
        positions: the recorded ones; empty for a pipeline that has not run.
        steps: T; 0 if unknown before the run.
    """

    latent_shape: tuple[int, int, int]
    preview: PreviewMap | None
    pipeline: str = "unknown"
    image_size: tuple[int, int] = (0, 0)
    positions: tuple[PositionInfo, ...] = ()
    steps: int = 0


@_strict
@dataclass(frozen=True)
class ShardRecord:
    """A committed shard: its path in the data set folder, and its expected rows, bytes and hash."""

    path: str
    rows: int
    bytes: int
    sha256: str


@_strict
@dataclass(frozen=True)
class Block:
    """Rows that were added in one build, prompt by prompt: half-open ranges of prompts and candidates.

    `fingerprint` is the data set's at that time; the shards of the block state it.
    """

    fingerprint: str
    prompts: tuple[int, int]
    candidates: tuple[int, int]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return (self.prompts[1] - self.prompts[0]) * self.width

    @property
    def width(self) -> int:
        """Candidates per prompt."""
        return self.candidates[1] - self.candidates[0]


@_strict
@dataclass(frozen=True)
class DatasetInfo:
    """The content of dataset.json. It holds no dates and no local paths: the same spec gives the same bytes.

    `positions` are the stored ones of 0..`steps`. `shards` has one entry per shard, None until it is committed.
    `signals` are in the order of `normal_signals`, activations with their width. `blocks` describe an extended data
    set: each adds candidates to all earlier prompts, or prompts with all earlier candidates; () is one block.
    `int8_encoding` is how Parquet encodes int8 columns; every reader of Parquet knows both.
    """

    format_version: Literal[1]
    name: Literal["noisy-genai-bench", "noisy-conceptual-captions"]
    split: Literal["test", "train"]
    fingerprint: str
    spec: dict[str, Any]
    latent_shape: tuple[int, int, int]
    format: Literal["parquet", "webdataset"]
    latent_dtype: Literal["float16", "float32", "int8"]
    image_size: tuple[int, int]
    steps: int
    candidates: int
    n_prompts: int
    rows: int
    rows_per_shard: int
    positions: tuple[PositionInfo, ...]
    preview: PreviewMap | None
    shards: tuple[ShardRecord | None, ...]
    signals: tuple[str, ...] = DEFAULT_SIGNALS
    blocks: tuple[Block, ...] = ()
    int8_encoding: Int8Encoding = "plain"

    @property
    def all_blocks(self) -> tuple[Block, ...]:
        """The blocks; always at least one."""
        return self.blocks or (Block(self.fingerprint, (0, self.n_prompts), (0, self.candidates)),)

    @property
    def n_shards(self) -> int:
        """Number of shards; no shard holds rows of two blocks."""
        return sum(-(-block.rows // self.rows_per_shard) for block in self.all_blocks)

    @property
    def complete(self) -> bool:
        """Whether every shard is committed."""
        return None not in self.shards

    @property
    def stored(self) -> tuple[int, ...]:
        """The stored positions, ascending."""
        return tuple(info.position for info in self.positions)

    @property
    def latent_space(self) -> LatentSpace:
        """What scorers need to know about its latents."""
        pipeline = self.spec.get("pipeline")
        name = str(pipeline.get("name")) if isinstance(pipeline, dict) else "unknown"
        return LatentSpace(self.latent_shape, self.preview, name, self.image_size, self.positions, self.steps)

    @property
    def row_bytes(self) -> int:
        """Bytes of the numbers in a row, uncompressed."""
        from .row_columns import array_columns, column_bytes  # which need this module

        return column_bytes(array_columns(self).values())

    def shard_path(self, index: int) -> str:
        """The path of shard `index` in the data set folder."""
        _, _, count = self._shard(index)
        return f"data/{self.split}-{index:05d}-of-{count:05d}.{SUFFIXES[self.format]}"

    def shard_rows(self, index: int) -> range:
        """The row numbers of shard `index`; rows go block by block, prompt by prompt, candidate by candidate."""
        return self._shard(index)[1]

    def shard_fingerprint(self, index: int) -> str:
        """The data set fingerprint that shard `index` states."""
        return self._shard(index)[0].fingerprint

    def shard_of(self, row: int) -> int:
        """The shard that holds row number `row`."""
        shards = 0
        for block in self.all_blocks:
            if row < block.rows:
                return shards + row // self.rows_per_shard
            row -= block.rows
            shards += -(-block.rows // self.rows_per_shard)
        raise IndexError(row)

    def shards_since(self, fingerprint: str) -> range | None:
        """The shards added after those with `fingerprint`; None if no shard has it."""
        last = max((i for i, block in enumerate(self.all_blocks) if block.fingerprint == fingerprint), default=None)
        if last is None:
            return None
        return range(replace(self, blocks=self.all_blocks[: last + 1]).n_shards, self.n_shards)

    def cell(self, row: int) -> tuple[int, int]:
        """The prompt number and candidate number of row number `row`."""
        for block in self.all_blocks:
            if row < block.rows:
                return block.prompts[0] + row // block.width, block.candidates[0] + row % block.width
            row -= block.rows
        raise IndexError(row)

    def rows_of(self, prompt: int) -> list[int]:
        """The row numbers of prompt number `prompt`, ascending; candidates ascend with them."""
        rows, first = list[int](), 0
        for block in self.all_blocks:
            if prompt in range(*block.prompts):
                start = first + (prompt - block.prompts[0]) * block.width
                rows += range(start, start + block.width)
            first += block.rows
        return rows

    def _shard(self, index: int) -> tuple[Block, range, int]:
        """The block of shard `index`, its row numbers, and the number of shards up to the block's end."""
        rows = shards = 0
        for block in self.all_blocks:
            first, rows, before = rows, rows + block.rows, shards
            shards += -(-block.rows // self.rows_per_shard)
            if index < shards:
                break
        start = first + (index - before) * self.rows_per_shard
        return block, range(start, min(start + self.rows_per_shard, rows)), shards

    def check(self) -> None:
        """Check that the numbers are consistent and that no path leads out of the folder.

        Raises:
            ValueError: they are not; the message names what does not fit.
        """
        sizes = (*self.latent_shape, *self.image_size, self.steps, self.candidates, self.rows_per_shard)
        if min(sizes) < 1 or max(sizes) > _MAX_SIZE or self._numbers() > _MAX_NUMBERS:
            raise ValueError("a size is out of range")
        if not 0 <= self.rows <= _MAX_SIZE**2 or self.rows != self.n_prompts * self.candidates:
            raise ValueError(f"rows {self.rows} are not {self.n_prompts} prompts x {self.candidates} candidates")
        self._check_blocks()
        if len(self.shards) != self.n_shards:
            raise ValueError(f"{len(self.shards)} shards cannot hold {self.rows} rows, {self.rows_per_shard} each")
        if list(self.stored) != sorted({k for k in self.stored if 0 <= k <= self.steps}) or not self.stored:
            raise ValueError(f"positions are not some of 0..{self.steps} in order")
        if self.signals != normal_signals(self.signals):
            raise ValueError(f"signals {', '.join(self.signals)} are not in their order")
        check_int8_encoding(self.int8_encoding, self.format, self.latent_dtype)
        pipeline = self.spec.get("pipeline")
        if not isinstance(pipeline, dict) or not all(isinstance(pipeline.get(key), str) for key in ("name", "content")):
            raise ValueError("spec does not state the pipeline's name and content")
        for index, record in enumerate(self.shards):
            if record and (record.path != self.shard_path(index) or record.rows != len(self.shard_rows(index))):
                raise ValueError(f"the record of shard {index} belongs to another shard")

    def _check_blocks(self) -> None:
        prompts = candidates = 0
        for block in self.all_blocks:
            more_prompts = block.prompts[0] == prompts and block.candidates == (0, candidates or block.candidates[1])
            more_candidates = block.candidates[0] == candidates and block.prompts == (0, prompts)
            if not (more_prompts or more_candidates) or min(block.width, block.prompts[1] - block.prompts[0]) < 0:
                raise ValueError("a block of rows adds neither prompts nor candidates")
            prompts, candidates = block.prompts[1], block.candidates[1]
        if (prompts, candidates) != (self.n_prompts, self.candidates):
            raise ValueError(f"its blocks hold {prompts} prompts x {candidates} candidates")

    def _numbers(self) -> int:
        """Numbers in a row."""
        layers = activations_of(self.signals)
        if any(layer.width is None for layer in layers):
            raise ValueError("a layer's activations have no width")
        per_position = math.prod(self.latent_shape) * (1 + len(estimates_of(self.signals)))
        per_position += sum(layer.width or 0 for layer in layers)
        return per_position * len(self.positions) + self.steps * ("cfg_gap" in self.signals)

    def to_json(self) -> bytes:
        """The bytes of dataset.json; its last field is a digest of the others, by which `nbench verify` sees edits."""
        content = asdict(self)
        if self.signals == DEFAULT_SIGNALS:
            del content["signals"]  # the default stays unwritten: files of the first version have no such field
        if not self.blocks:
            del content["blocks"]
        if self.int8_encoding == "plain":
            del content["int8_encoding"]
        return (json.dumps(content | {"digest": digest(content)}, indent=1, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes, origin: str) -> DatasetInfo:
        """Read what `to_json` wrote.

        Raises:
            NbenchError: not JSON, another format version, or invalid fields; the message names `origin`.
        """
        try:
            content = json.loads(data)
            if isinstance(content, dict):
                content.pop("digest", None)
            info = TypeAdapter(cls).validate_python(content)
            info.check()
            return info
        except (ValidationError, ValueError, RecursionError, NbenchError) as error:
            place, reason = "the file", str(error)
            if isinstance(error, ValidationError):
                first = error.errors()[0]
                place, reason = ".".join(map(str, first["loc"])) or place, first["msg"]
            fault = one_line(f"{place}: {reason}")
            raise NbenchError(
                f"{origin} is damaged or of another version ({fault}): build again with --fresh"
            ) from None


def digest(content: dict[str, Any]) -> str:
    """SHA-256 of the canonical JSON of `content`."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class TrajectoryBatch:
    """B trajectories: ids, texts, latents by position [B, C, H, W], and final images, uint8 [B, H, W, 3].

    x0: x0 estimates by position, [B, C, H, W]. cfg_gap: float32 [B, T], per step the L2 norm of conditional minus
    unconditional prediction. activations: by layer and position, [B, D]; attention to the prompt's tokens is there as
    attention:LAYER. ahead: by signal x0@L and position, the estimates of L denoiser calls, [B, C, H, W].

    A non-empty error marks a failed candidate, whose latents and image are undefined. Readers return only candidates
    that succeeded; `failed` is the number they left out.
    """

    prompt_ids: Sequence[str]
    prompts: Sequence[str]
    candidates: Sequence[int]
    seeds: Sequence[int]
    tags: Sequence[Tags | None]
    corruptions: Sequence[Corruptions | None]
    errors: Sequence[str]
    latents: dict[int, np.ndarray]
    images: np.ndarray | None
    failed: int = 0
    x0: dict[int, np.ndarray] = field(default_factory=dict)
    cfg_gap: np.ndarray | None = None
    activations: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)
    ahead: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)

    def estimates(self, signal: str) -> dict[int, np.ndarray]:
        """The estimates of the finished latent by position: "x0" or "x0@L"."""
        return self.x0 if signal == "x0" else self.ahead[signal]

    def __len__(self) -> int:
        return len(self.prompt_ids)
