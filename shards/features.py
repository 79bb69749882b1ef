"""The types of WebDataset members as YAML, for `datasets`, which would otherwise guess them from the first rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml  # type: ignore[import-untyped]

from .atomic import atomic_write, writing_to
from .row_columns import array_columns, arrow_schema, feature_type
from .schema import DatasetInfo

FEATURES_FILE = ".huggingface.yaml"
"""`datasets` and the Hub read this file beside README.md, whose keys it replaces."""


def dataset_features(info: DatasetInfo) -> list[dict[str, Any]]:
    """The features of a sample of a WebDataset shard, in the YAML form of `datasets`; a failed row lacks some."""
    members = {name: column for name, column in array_columns(info).items() if not column.scale}
    meta = pa.struct([field for field in arrow_schema(info) if field.name not in {*members, "image"}])
    features = {"meta.json": _yaml(meta), "image.png": {"dtype": "image"}}
    for column in members.values():
        nested: dict[str, Any] = {"dtype": column.element}
        for _ in column.shape:
            nested = _list(nested)
        features[column.member] = nested
    features |= {key: {"dtype": "string"} for key in ("__key__", "__url__")}
    return [{"name": name} | feature for name, feature in features.items()]


def features_file(info: DatasetInfo) -> bytes | None:
    """The content of the file with the features; None for Parquet, whose shards state their types."""
    if info.format != "webdataset":
        return None
    return yaml.safe_dump({"dataset_info": {"features": dataset_features(info)}}, sort_keys=False).encode()


def write_features(folder: Path, info: DatasetInfo) -> Path | None:
    """Write the features into a data set folder; None if it needs none."""
    content = features_file(info)
    if content is None:
        return None
    with writing_to(folder / FEATURES_FILE):
        atomic_write(folder / FEATURES_FILE, content)
    return folder / FEATURES_FILE


def _yaml(kind: pa.DataType) -> dict[str, Any]:
    if pa.types.is_struct(kind):
        return {"struct": [{"name": field.name} | _yaml(field.type) for field in kind]}
    if pa.types.is_fixed_size_list(kind):
        return _list(_yaml(kind.value_type)) | {"length": kind.list_size}
    return _list(_yaml(kind.value_type)) if pa.types.is_list(kind) else {"dtype": feature_type(kind)}


def _list(element: dict[str, Any]) -> dict[str, Any]:
    return {"list": element["dtype"] if element.keys() == {"dtype"} else element}
