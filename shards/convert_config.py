"""The options of `nbench convert`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ..errors import check_range
from ..options import Argument, Option
from .encoding import Int8Encoding


@dataclass(frozen=True)
class ConvertConfig:
    """What to change; None keeps the value. `source` and `out` are folders or fsspec URLs; `source` may be a Hub id."""

    source: Annotated[str, Argument("Data set: folder, URL or Hub id.")]
    out: Annotated[str, Argument("Destination: folder or URL (s3://..., memory://...).")]
    format: Annotated[Literal["parquet", "webdataset"] | None, Option("Shard format.")] = None
    positions: Annotated[str | None, Option("Positions to keep: 20,30 or 0:50:5.")] = None
    latent_dtype: Annotated[
        Literal["float16", "float32", "int8"] | None, Option("Latent storage dtype; int8 adds one scale per channel.")
    ] = None
    int8_encoding: Annotated[
        Int8Encoding | None, Option("Parquet encoding of int8 latents; dictionary takes 30 % fewer bytes.")
    ] = None
    rows_per_shard: Annotated[int | None, Option("Trajectories per shard.")] = None
    fresh: Annotated[bool, Option("Start over, or resume an interrupted conversion.", flag="--fresh/--resume")] = False

    def __post_init__(self) -> None:
        check_range("--rows-per-shard", self.rows_per_shard)
