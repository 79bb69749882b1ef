"""Names, types and defaults of options are a contract: whatever changes them must change `contract.txt` as well."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from nbench.cli import app

CONTRACT = Path(__file__).with_name("contract.txt")


def commands(command: Any, name: str = "nbench") -> Iterator[tuple[str, Any]]:
    """All commands and groups by their full names."""
    yield name, command
    for word, below in getattr(command, "commands", {}).items():
        yield from commands(below, f"{name} {word}")


def described(parameter: Any) -> str:
    """One line: how it is written, its type, its default and the variable of the environment that it is read from."""
    option = parameter.param_type_name == "option"
    written = "/".join([*parameter.opts, *parameter.secondary_opts]) if option else parameter.name.upper()
    annotation, default = parameter.type_descriptor.annotation, parameter.default
    kind = getattr(annotation, "__name__", "") if isinstance(annotation, type) else str(annotation)
    limits = "".join(f" {name}={value}" for name in ("min", "max") if (value := getattr(parameter, name)) is not None)
    usual = "required" if parameter.required else f"= {default if default is None else str(default)!r}"
    return f"{written} {kind}{limits} {usual}" + (f" ${parameter.envvar}" if parameter.envvar else "")


def contract() -> str:
    """A block per command: its arguments in their order, then its options by name."""
    blocks = []
    for name, command in sorted(commands(typer.main.get_command(app))):
        arguments = [described(parameter) for parameter in command.params if parameter.param_type_name == "argument"]
        options = sorted(described(parameter) for parameter in command.params if parameter.param_type_name == "option")
        blocks.append("\n  ".join([name, *arguments, *options]))
    return "\n".join(blocks) + "\n"


def test_options_are_as_the_contract_says() -> None:
    assert contract() == CONTRACT.read_text()
