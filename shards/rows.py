"""Convert trajectories to Arrow rows and back; every shard format reads and writes such rows."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from ..errors import NbenchError, one_line, reason_of
from .row_columns import activation_column, array_columns, arrow_schema, latent_column, scale_column
from .schema import DatasetInfo, TrajectoryBatch
from .signals import activations_of, estimates_of

NAMES = ("prompt_id", "prompt", "candidate", "seed", "tags", "corruptions", "status")
"""Columns that are read whatever positions are selected."""
_NEVER_NULL = ("id", "prompt_id", "prompt", "candidate", "seed", "status")
_DTYPES = {"float16": np.float16, "float32": np.float32, "int8": np.int8}
_INT8_MAX = 127
FLOAT16_MAX = 65504.0


def to_arrow(batch: TrajectoryBatch, info: DatasetInfo) -> pa.RecordBatch:
    """One Arrow row per trajectory; failed ones have neither latents nor an image.

    Raises:
        NbenchError: a text that UTF-8 cannot encode.
    """
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
        "image": [
            None if bad else {"bytes": None if image is None else encode_image(image)}
            for bad, image in zip(failed, images, strict=True)
        ],
        "status": np.where(failed, "failed", "ok").tolist(),
        "error": [error or None for error in batch.errors],
    }
    try:
        arrays = {name: pa.array(values, schema.field(name).type) for name, values in columns.items()}
    except UnicodeEncodeError as error:
        context = ascii(error.object[max(0, error.start - 20) : error.start + 20])
        raise NbenchError(
            f"text {context} has half a surrogate pair, which UTF-8 cannot encode: fix the prompt"
        ) from None
    for position in info.stored:
        arrays |= latents_to_arrow(batch.latents[position], info, position, failed)
        for signal in estimates_of(info.signals) if position < info.steps else ():
            arrays |= latents_to_arrow(batch.estimates(signal)[position], info, position, failed, signal)
    for name, values in _others(batch, info):
        arrays[name] = _fixed_lists(values.astype(_DTYPES[array_columns(info)[name].element]), failed)
    return pa.RecordBatch.from_arrays([arrays[name] for name in schema.names], schema=schema)


def latents_to_arrow(
    latents: np.ndarray, info: DatasetInfo, position: int, missing: np.ndarray, signal: str = "latent"
) -> dict[str, pa.Array]:
    """The columns of one position, from latents [B, C, H, W]; rows that are `missing` (bool [B]) become null.

    int8 stores round(latent / scale), and per channel the scale: largest magnitude / 127.
    `signal` "x0" or "x0@L" gives the columns of x0 estimates, which are stored like latents.

    Raises:
        NbenchError: a latent exceeds the float16 range (readers return float16 unless the data set is float32).
    """
    arrays = {}
    if (
        info.latent_dtype != "float32"
        and latents.dtype != np.float16
        and np.abs(latents[~missing]).max(initial=0) > FLOAT16_MAX
    ):
        raise NbenchError(
            f"{signal}s at position {position} exceed {FLOAT16_MAX:g}, the limit of float16 and int8: "
            "use --latent-dtype float32"
        )
    if info.latent_dtype == "int8":
        values = np.where(missing[:, None, None, None], 0, latents).astype(np.float32)
        scale = np.abs(values).max((2, 3)) / _INT8_MAX
        latents = np.rint(values / np.where(scale > 0, scale, 1)[:, :, None, None])
        arrays[scale_column(position, signal)] = _fixed_lists(scale.astype(np.float32), missing)
    arrays[latent_column(position, signal)] = _fixed_lists(latents.astype(_DTYPES[info.latent_dtype]), missing)
    return arrays


def _others(batch: TrajectoryBatch, info: DatasetInfo) -> Iterator[tuple[str, np.ndarray]]:
    """The columns of signals other than latents and x0 estimates."""
    if "cfg_gap" in info.signals and batch.cfg_gap is not None:
        yield "cfg_gap", batch.cfg_gap
    for layer in activations_of(info.signals):
        for position, values in batch.activations[layer.key].items():
            if position in info.stored:
                yield activation_column(layer.stem, position), values


def from_arrow(
    rows: pa.RecordBatch,
    info: DatasetInfo,
    positions: Sequence[int],
    images: bool = False,
    signals: Sequence[str] = ("latent",),
) -> TrajectoryBatch:
    """The trajectories in `rows` that did not fail, with `signals` at `positions`.

    float32 latents stay float32; float16 and int8 latents become float16. The x0 estimate at the final position is the
    finished latent; there are no activations at that position.

    Raises:
        NbenchError: a row that did not fail has no latent or no valid image.
    """
    failed = count_failed(rows)
    if failed:
        rows = rows.filter(pc.equal(rows["status"], "ok"))
    names = {name: rows[name].to_pylist() for name in NAMES}
    latents, gap = "latent" in signals, "cfg_gap" in signals
    estimates = {
        signal: {k: latents_of(rows, info, k, _stored_as(k, info, signal)) for k in positions}
        for signal in estimates_of(signals)
    }
    return TrajectoryBatch(
        prompt_ids=names["prompt_id"],
        prompts=names["prompt"],
        candidates=names["candidate"],
        seeds=names["seed"],
        tags=names["tags"],
        corruptions=names["corruptions"],
        errors=[""] * rows.num_rows,
        latents={k: latents_of(rows, info, k) for k in positions} if latents else {},
        images=images_of(rows, info.image_size) if images else None,
        failed=failed,
        x0=estimates.pop("x0", {}),
        cfg_gap=_numbers(rows, "cfg_gap").reshape(rows.num_rows, info.steps) if gap else None,
        activations={
            layer: {k: _numbers(rows, name).reshape(rows.num_rows, -1) for k, name in columns.items()}
            for layer, columns in _activation_columns(info, positions, signals).items()
        },
        ahead=estimates,
    )


def latents_of(rows: pa.RecordBatch, info: DatasetInfo, position: int, signal: str = "latent") -> np.ndarray:
    """Latents, or x0 estimates, [B, C, H, W] of rows that did not fail.

    Raises:
        NbenchError: a row has none.
    """
    values = _numbers(rows, latent_column(position, signal)).reshape(rows.num_rows, *info.latent_shape)
    if info.latent_dtype != "int8":
        return values
    scale = _numbers(rows, scale_column(position, signal)).reshape(rows.num_rows, info.latent_shape[0], 1, 1)
    return (values * scale).astype(np.float16)


def encode_image(image: np.ndarray) -> bytes:
    """Encode a final image, uint8 [H, W, 3], as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return buffer.getvalue()


def decode_image(png: bytes | None, size: tuple[int, int]) -> np.ndarray:
    """Decode a final image to uint8 [H, W, 3].

    Raises:
        ValueError: there is none, it is not a PNG, or its size is not `size` (checked before decoding).
    """
    if png is None:
        raise ValueError("has no image")
    height, width = size
    try:
        # PNG only: for some formats Pillow starts external programs
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            actual = image.size
            if actual == (width, height):
                return np.asarray(image.convert("RGB"))
    except Exception as error:  # Pillow's decoders raise many types
        raise ValueError(f"its image cannot be decoded ({reason_of(error)})") from None
    raise ValueError(f"its image is {actual[0]}x{actual[1]}, not {width}x{height}")


def check_rows(rows: pa.RecordBatch) -> None:
    """Check that rows from a file can be used.

    Raises:
        ValueError: a text that is not UTF-8, or a row without a name, prompt, seed or status.
    """
    rows.validate(full=True)
    for name in _NEVER_NULL:
        if name in rows.schema.names and rows[name].null_count:
            raise ValueError(f"a row has no {name}")


def columns_of(
    info: DatasetInfo, positions: Sequence[int], images: bool, signals: Sequence[str] = ("latent",)
) -> list[str]:
    """The columns that `from_arrow` needs."""
    columns = {*NAMES, *(["image"] if images else []), *(["cfg_gap"] if "cfg_gap" in signals else [])}
    kinds = {(k, "latent") for k in positions if "latent" in signals}
    kinds |= {(k, _stored_as(k, info, signal)) for k in positions for signal in estimates_of(signals)}
    columns |= {column(k, kind) for k, kind in kinds for column in (latent_column, scale_column)}
    for by_position in _activation_columns(info, positions, signals).values():
        columns |= {*by_position.values()}
    return [name for name in arrow_schema(info).names if name in columns]


def _stored_as(position: int, info: DatasetInfo, signal: str) -> str:
    """The signal that stores the estimate `signal` of a position; at the final position that is the latent."""
    return signal if position < info.steps else "latent"


def _activation_columns(
    info: DatasetInfo, positions: Sequence[int], signals: Sequence[str]
) -> dict[str, dict[int, str]]:
    """The columns of the activations in `signals`, by layer and position."""
    wanted, places = {each.key for each in activations_of(signals)}, [k for k in positions if k < info.steps]
    layers = [each for each in activations_of(info.signals) if each.key in wanted]
    return {each.key: {k: activation_column(each.stem, k) for k in places} for each in layers}


def count_failed(rows: pa.RecordBatch) -> int:
    """Number of failed rows, which have no latents."""
    return int(pc.sum(pc.not_equal(rows["status"], "ok"), min_count=0).as_py())


def _fixed_lists(values: np.ndarray, missing: np.ndarray) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values[0].size if len(values) else 1, mask=pa.array(missing))


def _numbers(rows: pa.RecordBatch, name: str) -> np.ndarray:
    lists = rows[name]
    numbers = lists.flatten()
    if lists.null_count or numbers.null_count:
        raise NbenchError(f"a row that did not fail has nothing in {name}: see `nbench verify`")
    values: np.ndarray = numbers.to_numpy(zero_copy_only=False)
    return values


def images_of(rows: pa.RecordBatch, size: tuple[int, int]) -> np.ndarray:
    """Final images uint8 [B, H, W, 3] of rows that did not fail.

    Raises:
        NbenchError: a row has none, or one that is not valid.
    """
    images = []
    for i, png in enumerate(pc.struct_field(rows["image"], "bytes").to_pylist()):
        try:
            images.append(decode_image(png, size))
        except ValueError as error:
            row = one_line(f"{rows['prompt_id'][i]}/{rows['candidate'][i]}")
            raise NbenchError(f"row {row}: {error}; see `nbench verify`") from None
    return np.stack(images) if images else np.empty((0, *size, 3), np.uint8)
