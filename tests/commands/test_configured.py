"""Options come from configurations: names, types, defaults and values, with nothing written twice."""

from __future__ import annotations

import doctest
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from typer.testing import CliRunner

from nbench import options
from nbench.commands.configured import command, configured
from nbench.errors import NbenchError
from nbench.options import Argument, Fields, Option, Place, panel, words


@dataclass(frozen=True, kw_only=True)
class Limits:
    limit: Annotated[int | None, panel("Limits")("At most.")] = None
    loud: Annotated[bool, Option("Say more.")] = False


@dataclass(frozen=True)
class Device:
    name: str

    @classmethod
    def best(cls, device: Annotated[str | None, Option("Where.")] = None) -> Device:
        return cls(device or "cpu")


@dataclass(frozen=True)
class Work(Limits):
    source: Annotated[str | Path, Argument("From where.", flag="src")]
    kind: Annotated[Literal["a", "b"], Option("Which.")] = "a"
    many: Annotated[tuple[str, ...], Option("Each.", flag="--each")] = ("x", "y")
    listed: Annotated[tuple[str, ...], Option("Listed.", text=str, default="p,q", parse=words)] = ("p", "q")
    places: Annotated[int, Option("Places.", min=1, env="PLACES")] = 2
    again: Annotated[bool, Option("Again or not.", flag="--again/--once")] = False
    inner: int = 5

    def __post_init__(self) -> None:
        if self.limit == 0:
            raise NbenchError("no limit")


@dataclass(frozen=True)
class Whole:
    work: Work
    device: Annotated[Device, Fields(made_by=Device.best)]
    limits: Annotated[Limits, Fields(without=("limit", "loud"))] = field(default_factory=lambda: Limits(limit=7))


def run(*arguments: str, **environment: str) -> tuple[int, Any, str]:
    """Exit code, what the command was called with, and its output."""
    calls: list[Any] = []
    app = typer.Typer()

    @command(app)
    def go(config: Whole, extra: Annotated[float, Option("More.")] = 1.5) -> None:
        """Go."""
        calls.append((config, extra))

    done = CliRunner().invoke(app, arguments, env={"PLACES": None, **environment})
    return done.exit_code, calls[0] if calls else done.exception, done.output


def test_words() -> None:
    assert doctest.testmod(options).attempted > 0
    assert doctest.testmod(options).failed == 0


def test_defaults_are_those_of_the_fields() -> None:
    code, (config, extra), _ = run("here")
    assert (code, config, extra) == (0, Whole(Work("here"), Device("cpu"), Limits(limit=7)), 1.5)


def test_values_reach_their_fields() -> None:
    arguments = "here --kind b --each 1 --each 2 --listed r,,s --again --limit 3 --loud --device tpu --extra 2"
    code, (config, extra), _ = run(*arguments.split(), PLACES="4")
    assert (code, extra, config.device) == (0, 2.0, Device("tpu"))
    assert config.work == Work("here", "b", ("1", "2"), ("r", "s"), 4, True, limit=3, loud=True)


@pytest.mark.parametrize(
    "arguments", [(), ("here", "--places", "0"), ("here", "--kind", "c"), ("here", "--inner", "1")]
)
def test_what_is_no_option_or_value_is_refused(arguments: tuple[str, ...]) -> None:
    assert run(*arguments)[0] == 2


def test_a_configuration_may_refuse() -> None:
    _, error, _ = run("here", "--limit", "0")
    assert isinstance(error, NbenchError)


def test_help_shows_panels_defaults_and_flags_without_a_type() -> None:
    _, _, shown = run("--help", COLUMNS="200")
    lines = [" ".join(line.strip("│╭╮╰╯─ ").split()) for line in shown.splitlines()]
    assert "Limits" in lines
    for start in (
        "--limit <int> At most.",
        "--loud Say more.",
        "--again --once Again or not. [default: once]",
        "--places <int range>",
        "--help Show this message and exit.",
        "* src <str> From where. [required]",
    ):
        assert any(line.startswith(start) for line in lines), (start, lines)


def test_two_fields_of_one_option_are_a_mistake_of_ours() -> None:
    def twice(work: Work, other: Work) -> None: ...

    with pytest.raises(ValueError, match="duplicate parameter name"):
        configured(twice)


def test_a_url_for_an_option_that_takes_a_path_is_refused() -> None:
    def go(
        source: Annotated[list[Path], Argument("From.")],
        out: Annotated[Path | None, Option("To.")] = None,
        place: Annotated[Place, Option("Folder or URL.")] = "",
    ) -> Place:
        return place

    assert configured(go)(source=[Path("a")], out=None, place="s3://bucket/a") == "s3://bucket/a"
    with pytest.raises(NbenchError, match=r"^--out s3://bucket/a is a URL: give a path on this machine"):
        configured(go)(source=[Path("a")], out=Path("s3://bucket/a"), place="")
    with pytest.raises(NbenchError, match=r"^source gs://b/c is a URL"):
        configured(go)(source=[Path("a"), Path("gs://b/c")], out=None, place="")
