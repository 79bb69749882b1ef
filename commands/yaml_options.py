"""Options of a command from a YAML file."""

from __future__ import annotations

from pathlib import Path

import typer

from ..errors import NbenchError, one_line


def read_options(context: typer.Context, path: str | None) -> str | None:
    """Make the entries of a YAML file the defaults of the command's options; a callback of typer.

    Raises:
        NbenchError: no such file, not a YAML mapping, or an unknown option.
    """
    if path is None:
        return None
    import yaml  # type: ignore[import-untyped]

    try:
        # every value as text: YAML would read 20:30 as a number in base 60
        entries = yaml.load(Path(path).read_text("utf-8"), yaml.BaseLoader) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise NbenchError(f"cannot read --config {path}: {one_line(str(error))}") from None
    if not isinstance(entries, dict):
        raise NbenchError(f"--config {path} is not a list of `option: value`")
    names = {parameter.name for parameter in context.command.params} - {"help", "options"}
    values = {str(key).replace("-", "_"): value for key, value in entries.items()}
    if unknown := sorted(values.keys() - names):
        raise NbenchError(f"--config {path} has {', '.join(map(one_line, unknown))}: `--help` lists the options")
    texts = {name: ",".join(map(str, value)) if isinstance(value, list) else value for name, value in values.items()}
    context.default_map = {**(context.default_map or {}), **texts}
    return path
