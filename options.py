"""Describes the command-line option of a configuration field, beside that field; plain data without typer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .errors import NbenchError

Place = str | Path
"""A folder, or the URL of one as text: `Path` would take a slash from s3://bucket/folder."""
_LOST_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(?!/)")


def lost_url(path: object) -> str | None:
    """The URL that became a `Path`; None if it is none.

    >>> lost_url(Path("s3://bucket/folder")), lost_url(Path("data/s3:/x")), lost_url("s3://bucket")
    ('s3://bucket/folder', None, None)
    """
    match = _LOST_URL.match(str(path)) if isinstance(path, Path) else None
    return match and f"{match[1]}://{str(path)[match.end() :]}"


def local_path(name: str, place: Place) -> Path:
    """The path `place` of the option or input `name`.

    Raises:
        NbenchError: it is a URL.
    """
    if url := lost_url(Path(place)):
        raise NbenchError(f"{name} {url} is a URL: give a path on this machine")
    return Path(place)


@dataclass(frozen=True)
class Option:
    """The option for a field or parameter annotated `Annotated[TYPE, Option(HELP)]`; see `commands.configured`.

    Attributes:
        help: one or two sentences; states the default if the field's own default is None.
        panel: heading of the group in `--help`.
        flag: the flag, with its opposite as in "--fresh/--resume"; None: --field-name. For an argument, its name.
        env: environment variable that is read if the option is missing.
        min: smallest value allowed.
        argument: positional instead of a flag.
        required: must be given although the field has a default.
        text: type on the command line if it differs from the field's; its default is then `default`.
        parse: converts the value of type `text` to the field's value; without a value the field keeps its default.
    """

    help: str
    panel: str | None = None
    flag: str | None = None
    env: str | None = None
    min: float | None = None
    argument: bool = False
    required: bool = False
    text: Any = None
    default: Any = None
    parse: Callable[[Any], Any] | None = None


Argument = partial(Option, argument=True)

RECIPE_FILE = "recipe.yaml"
"""The options of a build, in its data set."""


def option_name(field: str, option: Option) -> str:
    """The name of a field's option without its dashes, or of its argument.

    >>> option_name("save_every", Option("...")), option_name("fresh", Option("...", flag="--fresh/--resume"))
    ('save-every', 'fresh')
    """
    return (option.flag or field.replace("_", "-")).partition("/")[0].removeprefix("--")


def panel(name: str) -> partial[Option]:
    """A constructor of options of one panel."""
    return partial(Option, panel=name)


@dataclass(frozen=True)
class Fields:
    """Used instead of `Option` for a parameter that is itself a configuration: its fields become options.

    Attributes:
        without: names of fields that do not become options here.
        made_by: function that makes the configuration and whose parameters become the options; None: its class.
    """

    without: tuple[str, ...] = ()
    made_by: Callable[..., Any] | None = None


def words(text: str | Iterable[str]) -> tuple[str, ...]:
    """The words of one or several comma-separated lists.

    >>> words("clip,vqascore"), words(["latent,x0", "image"])
    (('clip', 'vqascore'), ('latent', 'x0', 'image'))
    """
    return tuple(filter(None, (text if isinstance(text, str) else ",".join(text)).split(",")))
