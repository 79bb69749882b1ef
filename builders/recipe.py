"""The recipe of a data set: the options of its build as a YAML file, from which it can be built again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from ..options import Option, option_name
from .config import BuildConfig

_WHERE = {"out", "fresh", "retry_failed", "extend"}
"""Fields that say where and how to build, not what."""


def recipe_of(config: BuildConfig) -> bytes:
    """The options of a build that are not defaults, by name, as `nbench build --config` takes them."""
    import yaml  # type: ignore[import-untyped]

    entries = {name: value for name, value in _entries(config) if name not in _WHERE}
    text = yaml.safe_dump(entries, sort_keys=False, allow_unicode=True, width=1000)
    return f"# nbench build --config recipe.yaml --out FOLDER\n{text}".encode()


def _entries(config: Any) -> Iterator[tuple[str, Any]]:
    hints = get_type_hints(type(config), include_extras=True)
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            yield from _entries(value)
            continue
        option = next((extra for extra in get_args(hints[field.name]) if isinstance(extra, Option)), None)
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if option is not None and value != default:
            yield option_name(field.name, option).replace("-", "_"), _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: json.dumps(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value
