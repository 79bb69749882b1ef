"""What a data set of trajectories is: the content of dataset.json, and the columns of a shard."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from ..errors import NbenchError

CORRUPTION_KINDS = ("subject", "colour", "quantity", "background")
SKILL_LEVELS = ("basic", "advanced")
BYTES = {"float16": 2, "float32": 4, "int8": 1}
"""Of one number of a latent, by the type it is stored as."""
_MOST, _MOST_NUMBERS = 2**31 - 1, 2**28
"""Of any size; of numbers in the latents of a trajectory, 1 GiB of float32: a reader allocates so much for a row."""
SUFFIXES = {"parquet": "parquet", "webdataset": "tar"}
_strict = with_config(ConfigDict(extra="forbid"))

Tags = dict[str, list[str]]
Corruptions = Mapping[str, str | None]
"""A caption for each kind; None where a caption has nothing of the kind."""


@_strict
@dataclass(frozen=True)
class PositionInfo:
    """Position k of a run: what step k starts from; the last one, the finished latent, has no timestep and sigma 0.

    `sigma` is the scheduler's own (None where it states none); the denoiser sees latent * `input_scale`.
    """

    position: int
    timestep: float | None
    sigma: float | None
    input_scale: float


@_strict
@dataclass(frozen=True)
class PreviewMap:
    """RGB in 0..1 = weight @ latent + bias at each place of the latent, to be clamped by whoever applies it."""

    weight: tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]
    bias: tuple[float, float, float]


@_strict
@dataclass(frozen=True)
class ShardRecord:
    """A committed shard: its path in the data set folder, and what it must turn out to be."""

    path: str
    rows: int
    bytes: int
    sha256: str


@_strict
@dataclass(frozen=True)
class DatasetInfo:
    """What dataset.json says. No times and no machine's paths: the same spec gives the same bytes.

    `positions` are those stored of 0..`steps`; `shards` has one entry a shard, None until it is committed.
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

    @property
    def complete(self) -> bool:
        """Whether every shard is committed."""
        return None not in self.shards

    @property
    def stored(self) -> tuple[int, ...]:
        """The positions stored, ascending."""
        return tuple(info.position for info in self.positions)

    def shard_path(self, index: int) -> str:
        """Where shard `index` lies in the data set folder."""
        return f"data/{self.split}-{index:05d}-of-{len(self.shards):05d}.{SUFFIXES[self.format]}"

    def shard_rows(self, index: int) -> range:
        """The numbers of the rows (prompt-major, candidate minor) of shard `index`."""
        return range(index * self.rows_per_shard, min((index + 1) * self.rows_per_shard, self.rows))

    def check(self) -> None:
        """Make sure that the numbers fit each other and that no path leads out of the folder.

        Raises:
            ValueError: naming what does not fit.
        """
        sizes = (*self.latent_shape, *self.image_size, self.steps, self.candidates, self.rows_per_shard)
        if min(sizes) < 1 or max(sizes) > _MOST or math.prod(self.latent_shape) * len(self.positions) > _MOST_NUMBERS:
            raise ValueError("a size out of all bounds")
        if not 0 <= self.rows <= _MOST**2 or self.rows != self.n_prompts * self.candidates:
            raise ValueError(f"rows {self.rows} are not {self.n_prompts} prompts x {self.candidates} candidates")
        if len(self.shards) != -(-self.rows // self.rows_per_shard):
            raise ValueError(f"{len(self.shards)} shards cannot hold {self.rows} rows, {self.rows_per_shard} each")
        if list(self.stored) != sorted({k for k in self.stored if 0 <= k <= self.steps}) or not self.stored:
            raise ValueError(f"positions are not some of 0..{self.steps} in order")
        for index, record in enumerate(self.shards):
            if record and (record.path != self.shard_path(index) or record.rows != len(self.shard_rows(index))):
                raise ValueError(f"the record of shard {index} is another's")

    def to_json(self) -> bytes:
        """The bytes of dataset.json; its last entry is a digest of all others, by which `nbench verify` sees edits."""
        content = asdict(self)
        return (json.dumps(content | {"digest": digest(content)}, indent=1, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes, origin: str) -> DatasetInfo:
        """Read what `to_json` wrote.

        Raises:
            NbenchError: not JSON, another format version, or fields that don't fit, naming `origin`.
        """
        try:
            content = json.loads(data)
            if isinstance(content, dict):
                content.pop("digest", None)
            info = TypeAdapter(cls).validate_python(content)
            info.check()
            return info
        except (ValidationError, ValueError, RecursionError) as error:
            place, reason = "the file", str(error)
            if isinstance(error, ValidationError):
                first = error.errors()[0]
                place, reason = ".".join(map(str, first["loc"])) or place, first["msg"]
            told = one_line(f"{place}: {reason}")
            raise NbenchError(f"{origin} is damaged or of another nbench ({told}): build again with --fresh") from None


def one_line(text: str) -> str:
    """What a file says, as an error may repeat it: no line breaks, nothing that cannot be printed, not too long."""
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text[:400])
    return shown if len(text) <= 400 else f"{shown}..."


def digest(content: dict[str, Any]) -> str:
    """SHA-256 of the canonical JSON of `content`."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class TrajectoryBatch:
    """B trajectories: names, texts, latents by position [B, C, H, W], and final images, uint8 [B, H, W, 3].

    An error that is not "" marks a candidate that failed: its latents and image mean nothing. Readers hand out
    candidates that succeeded only, and say in `failed` how many they left out.
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

    def __len__(self) -> int:
        return len(self.prompt_ids)


def latent_column(position: int) -> str:
    """The name of the column that holds a position."""
    return f"latent_{position:02d}"


def scale_column(position: int) -> str:
    """The name of the column that holds the scales of a position of int8 latents."""
    return f"scale_{position:02d}"


def arrow_schema(info: DatasetInfo, index: int | None = None) -> pa.Schema:
    """The columns of a shard, with the "huggingface" metadata by which `datasets` shows images and types.

    With `index`, the metadata name the shard too, so that one in the place of another is found out.
    """
    size = math.prod(info.latent_shape)
    element = {"float16": pa.float16(), "float32": pa.float32(), "int8": pa.int8()}[info.latent_dtype]
    text, texts = pa.string(), pa.list_(pa.string())
    columns: list[tuple[str, pa.DataType]] = [
        ("id", text),
        ("prompt_id", text),
        ("prompt", text),
        ("candidate", pa.int32()),
        ("seed", pa.int64()),
        ("tags", pa.struct([(level, texts) for level in SKILL_LEVELS])),
        ("corruptions", pa.struct([(kind, text) for kind in CORRUPTION_KINDS])),
        ("image", pa.struct([("bytes", pa.binary()), ("path", text)])),
        ("status", text),
        ("error", text),
    ]
    for position in info.stored:
        columns.append((latent_column(position), pa.list_(element, size)))
        if info.latent_dtype == "int8":
            columns.append((scale_column(position), pa.list_(pa.float32(), info.latent_shape[0])))
    features = {name: {"_type": "Image"} if name == "image" else _feature(kind) for name, kind in columns}
    layout = {
        "positions": info.stored,
        "latent_shape": info.latent_shape,
        "fingerprint": info.fingerprint,
        **({} if index is None else {"shard": index}),
    }
    return pa.schema(
        columns,
        metadata={"huggingface": json.dumps({"info": {"features": features}}), "nbench": json.dumps(layout)},
    )


def _feature(kind: pa.DataType) -> dict[str, Any]:
    """The description of an Arrow type in the words of the `datasets` library."""
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    if pa.types.is_fixed_size_list(kind):
        return {"feature": _feature(kind.value_type), "length": kind.list_size, "_type": "List"}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    return {"dtype": {"halffloat": "float16", "float": "float32"}.get(str(kind), str(kind)), "_type": "Value"}
