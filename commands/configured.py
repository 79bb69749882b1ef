"""Turns the fields of configuration dataclasses into the options of commands."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from ..options import Fields, Option, local_path

_BY_NAME = inspect.Parameter.KEYWORD_ONLY

Function = TypeVar("Function", bound=Callable[..., Any])

AsJson = Annotated[bool, Option("Print one JSON object and nothing else.", flag="--json")]
Wide = Annotated[bool, Option("Print tables at full width, with all columns.")]


class _PlainFlags:
    """Hides the type of flags in `--help`."""

    def get_params(self, ctx: Any) -> list[Any]:
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]  # the command class has it
        for param in params:
            if getattr(param, "is_flag", False):
                param.metavar = ""
        return params


class Command(_PlainFlags, TyperCommand):
    """A command of nbench."""


class Group(_PlainFlags, TyperGroup):
    """A group of commands of nbench."""


def command(
    app: typer.Typer, name: str | None = None, *, panel: str | None = None, **settings: Any
) -> Callable[[Function], Function]:
    """Make a function a command of `app`, listed in `panel`; `configured` makes its options."""

    def add(function: Function) -> Function:
        app.command(name, cls=Command, rich_help_panel=panel, **settings)(configured(function))
        return function

    return add


def configured(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with a signature for typer: each configuration is replaced by the options of its fields.

    A parameter, or a field of a configuration, is a configuration itself if it is a dataclass or marked with `Fields`.
    Fields of dataclasses without an `Option` do not become options; parameters of functions without one are left to
    typer.
    """
    configuration = _configuration(function)

    def run(**values: Any) -> Any:
        return configuration.make(values)

    run.__name__, run.__doc__ = function.__name__, function.__doc__
    parameters = list(configuration.parameters())
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


@dataclass(frozen=True)
class _Field:
    """A field that is an option: its parameter for typer, and the conversion from its value on the command line."""

    parameter: inspect.Parameter
    parse: Callable[[Any], Any]


@dataclass(frozen=True)
class _Configuration:
    """A dataclass or function, called with the values of `parts` by name."""

    call: Callable[..., Any]
    parts: Mapping[str, _Field | _Configuration]

    def parameters(self) -> Iterator[inspect.Parameter]:
        for part in self.parts.values():
            yield from (part.parameter,) if isinstance(part, _Field) else part.parameters()

    def make(self, values: Mapping[str, Any]) -> Any:
        """The configuration from the values of all parameters; options not given keep the field's default."""
        arguments = {}
        for name, part in self.parts.items():
            if isinstance(part, _Configuration):
                arguments[name] = part.make(values)
            elif (value := values[part.parameter.name]) is not None and value != []:
                arguments[name] = part.parse(value)
        return self.call(**arguments)


def _configuration(call: Callable[..., Any], instance: Any = None, without: Collection[str] = ()) -> _Configuration:
    """The configuration of a function, or of a dataclass with the defaults of `instance` if there is one."""
    parts: dict[str, _Field | _Configuration] = {}
    for name, (hint, default) in _fields(call, instance).items():
        kind, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        implied = Fields() if is_dataclass(kind) else None
        match next((extra for extra in extras if isinstance(extra, Option | Fields)), implied):
            case _ if name in without:
                pass
            case Option() as option:
                parts[name] = _field(name, kind, default, option)
            case Fields() as fields_:
                parts[name] = _configuration(fields_.made_by or kind, default, fields_.without)
            case None if not is_dataclass(call):
                parts[name] = _Field(inspect.Parameter(name, _BY_NAME, default=default, annotation=hint), _unchanged)
    if is_dataclass(instance) and not isinstance(instance, type):
        call = partial(replace, instance)  # keeps the fields that are not options here
    return _Configuration(call, parts)


def _fields(call: Callable[..., Any], instance: Any) -> dict[str, tuple[Any, Any]]:
    """Annotation and default of each parameter of a function or field of a dataclass (inherited fields last)."""
    hints = get_type_hints(call, include_extras=True)
    if not is_dataclass(call):
        parameters = inspect.signature(call).parameters.items()
        return {name: (hints[name], parameter.default) for name, parameter in parameters}
    defaults = {field.name: field.default for field in fields(call)}
    defaults |= {field.name: field.default_factory() for field in fields(call) if field.default_factory is not MISSING}
    if is_dataclass(instance):
        defaults |= {name: getattr(instance, name) for name in defaults}
    own = [name for name in call.__annotations__ if name in defaults]
    return {
        name: (hints[name], inspect.Parameter.empty if defaults[name] is MISSING else defaults[name])
        for name in dict.fromkeys([*own, *defaults])
    }


def _field(name: str, kind: Any, default: Any, option: Option) -> _Field:
    parse = option.parse or _unchanged
    members = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if option.text is not None:
        kind, default = option.text, option.default
    elif any(get_origin(member) is tuple for member in members):
        kind, default, parse = list[str] | None, None, tuple
    elif str in members:  # also for str | Path
        kind = str | None if NoneType in members else str
    elif option.parse is None and {Path, list[Path]} & set(members):
        parse = partial(_local, option.flag or (name if option.argument else f"--{name.replace('_', '-')}"))
    if option.argument:
        info: Any = typer.Argument(help=option.help, rich_help_panel=option.panel)
        name = option.flag or name
    else:
        flag = option.flag or f"--{name.replace('_', '-')}"
        info = typer.Option(flag, help=option.help, rich_help_panel=option.panel, envvar=option.env, min=option.min)
    if option.required:
        default = inspect.Parameter.empty
    return _Field(inspect.Parameter(name, _BY_NAME, default=default, annotation=Annotated[kind, info]), parse)


def _unchanged(value: Any) -> Any:
    return value


def _local(name: str, value: Any) -> Any:
    """`value` of an option that takes one or several paths.

    Raises:
        NbenchError: it is a URL.
    """
    return [local_path(name, path) for path in value] if isinstance(value, list) else local_path(name, value)
