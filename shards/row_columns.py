"""The columns of a row of a shard: their names, their sizes, and the Arrow schema."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from .schema import BYTES, CORRUPTION_KINDS, SKILL_LEVELS, DatasetInfo
from .signals import ATTENTION, DEFAULT_SIGNALS, Activations, ArrayColumn, activations_of, calls_ahead, estimates_of


def latent_column(position: int, signal: str = "latent") -> str:
    """The column of the latents, or of an estimate, at a position.

    >>> latent_column(5), latent_column(5, "x0"), latent_column(5, "x0@2")
    ('latent_05', 'x0_05', 'x0at2_05')
    """
    return f"{signal.replace('@', 'at')}_{position:02d}"


def scale_column(position: int, signal: str = "latent") -> str:
    """The column of the scales of int8 latents, or of an estimate, at a position."""
    prefix = "" if signal == "latent" else f"{signal.replace('@', 'at')}_"
    return f"{prefix}scale_{position:02d}"


def scale_of(column: str) -> str:
    """The column of the scales of the int8 column `column`."""
    signal, _, position = column.rpartition("_")
    return scale_column(int(position), signal)


def activation_column(stem: str, position: int) -> str:
    """The column of a layer's activations at a position; `stem` is the layer's."""
    return f"{stem}_{position:02d}"


def array_columns(info: DatasetInfo) -> dict[str, ArrayColumn]:
    """The numeric columns, in order."""
    columns = dict[str, ArrayColumn]()
    for k in info.stored:
        for signal in ("latent", *estimates_of(info.signals)):
            if signal in info.signals and (signal == "latent" or k < info.steps):  # x0 at T is the latent itself
                member = f"x{k:02d}.npy" if signal == "latent" else f"{latent_column(k, signal)}.npy"
                columns[latent_column(k, signal)] = ArrayColumn(signal, k, info.latent_dtype, info.latent_shape, member)
                if info.latent_dtype == "int8":
                    columns[scale_column(k, signal)] = ArrayColumn(signal, k, "float32", info.latent_shape[:1])
        for layer in activations_of(info.signals) if k < info.steps else ():
            name = activation_column(layer.stem, k)
            columns[name] = ArrayColumn(layer.name, k, "float16", (layer.width or 0,), f"{name}.npy")
    if "cfg_gap" in info.signals:
        columns["cfg_gap"] = ArrayColumn("cfg_gap", None, "float32", (info.steps,), "cfg_gap.npy")
    return columns


def column_bytes(columns: Iterable[ArrayColumn]) -> int:
    """Bytes of a row's numbers in `columns`, uncompressed; the few int8 scales are not counted."""
    return sum(BYTES[column.element] * math.prod(column.shape) for column in columns if not column.scale)


_SIGNAL_TEXT = {
    "latent": "raw latent at a position",
    "x0": "estimate of the finished latent (x0) at a position",
    "cfg_gap": "per step, L2 norm of conditional minus unconditional prediction",
}


@dataclass(frozen=True)
class ColumnGroup:
    """Numeric columns of one signal, or their int8 scales: names in order of position, one type and shape, one text."""

    columns: tuple[str, ...]
    members: tuple[str, ...]
    kind: pa.DataType
    content: str


def column_groups(info: DatasetInfo) -> tuple[ColumnGroup, ...]:
    """The numeric columns by signal, with what they hold; tars have no members for scales."""
    groups = dict[tuple[str, bool], dict[str, ArrayColumn]]()
    for name, column in array_columns(info).items():
        groups.setdefault((column.signal, column.scale), {})[name] = column
    return tuple(
        ColumnGroup(
            tuple(columns),
            tuple(column.member for column in columns.values() if column.member),
            arrow_schema(info).field(next(iter(columns))).type,
            _content(signal, scale, info.latent_dtype),
        )
        for (signal, scale), columns in groups.items()
    )


def _content(signal: str, scale: bool, dtype: str) -> str:
    if calls := calls_ahead(signal):
        text = _SIGNAL_TEXT["x0"] if calls == 1 else f"{_SIGNAL_TEXT['x0']}, by {calls} denoiser calls"
    elif (text := _SIGNAL_TEXT.get(signal, "")) == "":
        layer = Activations.parse(signal)
        attention = layer.prefix == ATTENTION
        what = "mass of the attention to each prompt token, then spread, in" if attention else "pooled activations of"
        text = f"{what} `{layer.layer}` at a position"
    if signal != "latent" and not calls:
        return text
    if scale:
        return f"int8 scales of the {text}, one per channel"
    return f"{text}, row-major{'; value x scale of its channel' if dtype == 'int8' else ''}"


def signal_bytes(info: DatasetInfo) -> dict[str, int]:
    """Uncompressed bytes of a row's numbers by signal, in column order; the few int8 scales are not counted."""
    columns = list(array_columns(info).values())
    return {
        signal: column_bytes(column for column in columns if column.signal == signal)
        for signal in dict.fromkeys(column.signal for column in columns)
    }


def arrow_schema(info: DatasetInfo, index: int | None = None) -> pa.Schema:
    """The columns of a shard, with "huggingface" metadata that tell `datasets` about images and types.

    With `index`, the metadata also name the shard, so that a shard in the place of another is detected.
    """
    elements = {"float16": pa.float16(), "float32": pa.float32(), "int8": pa.int8()}
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
    for name, column in array_columns(info).items():
        columns.append((name, pa.list_(elements[column.element], math.prod(column.shape))))
    features = {name: {"_type": "Image"} if name == "image" else _feature(kind) for name, kind in columns}
    layout = {
        "positions": info.stored,
        "latent_shape": info.latent_shape,
        "fingerprint": info.fingerprint if index is None else info.shard_fingerprint(index),
        **({} if info.signals == DEFAULT_SIGNALS else {"signals": info.signals}),
        **({} if index is None else {"shard": index}),
    }
    return pa.schema(
        columns,
        metadata={"huggingface": json.dumps({"info": {"features": features}}), "nbench": json.dumps(layout)},
    )


def _feature(kind: pa.DataType) -> dict[str, Any]:
    """An Arrow type as a feature description of the `datasets` library."""
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    if pa.types.is_fixed_size_list(kind):
        return {"feature": _feature(kind.value_type), "length": kind.list_size, "_type": "List"}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    return {"dtype": feature_type(kind), "_type": "Value"}


def feature_type(kind: pa.DataType) -> str:
    """The name that the `datasets` library gives a type of text or numbers."""
    return {"halffloat": "float16", "float": "float32"}.get(str(kind), str(kind))
