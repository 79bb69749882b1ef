"""Options of a command from a YAML file, a recipe."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml  # type: ignore[import-untyped]

from ..errors import NbenchError, one_line, reason_of
from ..options import RECIPE_FILE

_OF_CHECKPOINTS = "pipeline_config"
_NULLS = {"", "~", "null", "Null", "NULL"}


class _Texts(yaml.BaseLoader):
    """Every value as text, since YAML would read 20:30 as a number in base 60; null for what is left empty."""

    def construct_scalar(self, node: Any) -> str | None:
        text: str = super().construct_scalar(node)
        return None if node.style is None and text in _NULLS else text

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if repeated := [key for key in keys if keys.count(key) > 1]:
            raise yaml.YAMLError(f"{repeated[0]} is given twice")
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=True)
        return mapping


def read_options(context: typer.Context, path: str | None) -> str | None:
    """Make the entries of a YAML file the defaults of the command's options; a callback of typer.

    A folder stands for the recipe in it. Anything else is the configuration of a single-file checkpoint, if the command
    takes one.

    Raises:
        NbenchError: no such file, not a YAML mapping, or an unknown option.
    """
    if path is None:
        return None
    options = _options(context)
    file = Path(path) / RECIPE_FILE if (Path(path) / RECIPE_FILE).is_file() else Path(path)
    if _OF_CHECKPOINTS in options and file.suffix not in (".yaml", ".yml"):
        values: dict[str, Any] = {options[_OF_CHECKPOINTS].name: path}
    else:
        values = _values(file, options)
    context.default_map = {**(context.default_map or {}), **values}
    return path


def _options(context: typer.Context) -> dict[str, Any]:
    """The parameters of the command by the names that a file may use."""
    names = dict[str, Any]()
    for parameter in context.command.params:
        for option in (parameter.name or "", *parameter.opts):
            names[option.lstrip("-").replace("-", "_").lower()] = parameter
    return {name: parameter for name, parameter in names.items() if name not in ("help", "config")}


def _values(file: Path, options: dict[str, Any]) -> dict[str, Any]:
    """The entries of a file by parameter, as the command line would give them."""
    try:
        entries = yaml.load(file.read_text("utf-8"), _Texts)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise NbenchError(f"cannot read --config {file}: {reason_of(error)}") from None
    if not isinstance(entries, dict):
        raise NbenchError(f"--config {file} is not a list of `option: value`")
    values = dict[str, Any]()
    for key, value in entries.items():
        name = str(key).replace("-", "_")
        if name not in options:
            near = get_close_matches(name, options, 1)
            hint = f"did you mean {near[0]}?" if near else "`--help` lists the options"
            raise NbenchError(f"--config {file} has {one_line(str(key))}, which is no option here: {hint}")
        parameter = options[name]
        if parameter.name in values:
            raise NbenchError(f"--config {file} has {parameter.name} twice, by two of its names: leave one out")
        if value is not None:
            values[parameter.name] = _value(value, bool(getattr(parameter, "multiple", False)))
    return values


def _value(value: Any, repeatable: bool) -> Any:
    """A text, or a list of texts for a repeatable option; lists of others are joined by commas."""
    if isinstance(value, dict):
        value = [f"{key}={each}" for key, each in value.items()]
    if repeatable:
        return value if isinstance(value, list) else [value]
    return ",".join(map(str, value)) if isinstance(value, list) else value


ConfigFile = Annotated[
    str | None,
    typer.Option(
        "--config",
        help="YAML file with options by name, such as `batch_size: 32`, or a data set with a recipe; options on the "
        "command line win.",
        callback=read_options,
        is_eager=True,
    ),
]
