"""What the command line says and reads of a configuration's field, written beside that field; plain data, no typer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any


@dataclass(frozen=True)
class Option:
    """The option of a field or parameter that is `Annotated[TYPE, Option(HELP)]`; see `commands.configured`.

    Attributes:
        help: one or two sentences; names the default where the field's own default is None.
        panel: heading of the group in which `--help` lists it.
        flag: how it is written, "--fresh/--resume" with its opposite; None for --field-name. An argument's name.
        env: environment variable that is read where the option is not given.
        min: the smallest number allowed.
        argument: it is given by its place rather than by a flag.
        required: it must be given, though the field has a default.
        text: type on the command line, where that is not the field's; its default is then `default`.
        parse: makes the field's value of what was given in `text`; the field keeps its default where nothing was.
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


def panel(name: str) -> partial[Option]:
    """Makes the options of one panel."""
    return partial(Option, panel=name)


@dataclass(frozen=True)
class Fields:
    """In place of `Option`, for a configuration, whose fields are options.

    Attributes:
        without: names of fields that are no options here.
        made_by: what makes the configuration, of parameters that are options; None for its class.
    """

    without: tuple[str, ...] = ()
    made_by: Callable[..., Any] | None = None


def words(text: str | Iterable[str]) -> tuple[str, ...]:
    """The words of lists with commas.

    >>> words("clip,vqascore"), words(["latent,x0", "image"])
    (('clip', 'vqascore'), ('latent', 'x0', 'image'))
    """
    return tuple(filter(None, (text if isinstance(text, str) else ",".join(text)).split(",")))
