"""Trajectories as Arrow rows and back: what every file format of a shard reads and writes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from .schema import DatasetInfo, TrajectoryBatch, arrow_schema, latent_column, scale_column

NAMES = ("prompt_id", "prompt", "candidate", "seed", "tags", "corruptions", "status")
"""What is read of every row, whichever positions are."""
_DTYPES = {"float16": np.float16, "float32": np.float32, "int8": np.int8}
_INT8_MAX = 127


def to_arrow(batch: TrajectoryBatch, info: DatasetInfo) -> pa.RecordBatch:
    """One Arrow row a trajectory; failed ones have neither latents nor image."""
    schema, failed = arrow_schema(info), np.array([bool(error) for error in batch.errors], bool)
    images = [None] * len(batch) if batch.images is None else batch.images
    columns: dict[str, Any] = {
        "id": [f"{prompt}/{candidate}" for prompt, candidate in zip(batch.prompt_ids, batch.candidates, strict=True)],
        "prompt_id": batch.prompt_ids,
        "prompt": batch.prompts,
        "candidate": batch.candidates,
        "seed": batch.seeds,
        "tags": batch.tags,
        "corruptions": batch.corruptions,
        "image": [None if bad else {"bytes": _png(image)} for bad, image in zip(failed, images, strict=True)],
        "status": np.where(failed, "failed", "ok").tolist(),
        "error": [error or None for error in batch.errors],
    }
    arrays = {name: pa.array(values, schema.field(name).type) for name, values in columns.items()}
    for position in info.stored:
        arrays |= latents_to_arrow(batch.latents[position], info, position, failed)
    return pa.RecordBatch.from_arrays([arrays[name] for name in schema.names], schema=schema)


def latents_to_arrow(latents: np.ndarray, info: DatasetInfo, position: int, missing: np.ndarray) -> dict[str, pa.Array]:
    """The columns of one position, from latents [B, C, H, W]; rows that are `missing` (bool [B]) become null.

    int8 keeps latent / scale, rounded, with the scale of each channel beside it: its largest magnitude / 127.
    """
    found = {}
    if info.latent_dtype == "int8":
        values = np.where(missing[:, None, None, None], 0, latents).astype(np.float32)
        scale = np.abs(values).max((2, 3)) / _INT8_MAX
        latents = np.rint(values / np.where(scale > 0, scale, 1)[:, :, None, None])
        found[scale_column(position)] = _fixed_lists(scale.astype(np.float32), missing)
    found[latent_column(position)] = _fixed_lists(latents.astype(_DTYPES[info.latent_dtype]), missing)
    return found


def from_arrow(
    rows: pa.RecordBatch, info: DatasetInfo, positions: Sequence[int], images: bool = False
) -> TrajectoryBatch:
    """The trajectories of `rows` that did not fail, with latents of `positions`.

    float32 latents stay float32; float16 and int8 ones come as float16.
    """
    failed = count_failed(rows)
    if failed:
        rows = rows.filter(pc.equal(rows["status"], "ok"))
    names = {name: rows[name].to_pylist() for name in NAMES}
    return TrajectoryBatch(
        prompt_ids=names["prompt_id"],
        prompts=names["prompt"],
        candidates=names["candidate"],
        seeds=names["seed"],
        tags=names["tags"],
        corruptions=names["corruptions"],
        errors=[""] * rows.num_rows,
        latents={position: latents_of(rows, info, position) for position in positions},
        images=_decode(rows["image"], info.image_size) if images else None,
        failed=failed,
    )


def latents_of(rows: pa.RecordBatch, info: DatasetInfo, position: int) -> np.ndarray:
    """Latents [B, C, H, W] of rows none of which failed."""
    values = rows[latent_column(position)].flatten().to_numpy(zero_copy_only=False)
    values = values.reshape(rows.num_rows, *info.latent_shape)
    if info.latent_dtype != "int8":
        return values
    scale = rows[scale_column(position)].flatten().to_numpy(zero_copy_only=False).reshape(-1, info.latent_shape[0])
    return (values * scale[:, :, None, None]).astype(np.float16)


def columns_of(info: DatasetInfo, positions: Sequence[int], images: bool) -> list[str]:
    """The columns that `from_arrow` needs."""
    wanted = {*NAMES, *map(latent_column, positions), *map(scale_column, positions), *(["image"] if images else [])}
    return [name for name in arrow_schema(info).names if name in wanted]


def count_failed(rows: pa.RecordBatch) -> int:
    """How many of `rows` have no latents."""
    return int(pc.sum(pc.not_equal(rows["status"], "ok"), min_count=0).as_py())


def _fixed_lists(values: np.ndarray, missing: np.ndarray) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values[0].size if len(values) else 1, mask=pa.array(missing))


def _png(image: np.ndarray | None) -> bytes | None:
    if image is None:
        return None
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return buffer.getvalue()


def _decode(column: pa.Array, size: tuple[int, int]) -> np.ndarray:
    images = [np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for png in column.field("bytes").to_pylist()]
    return np.stack(images) if images else np.empty((0, *size, 3), np.uint8)
