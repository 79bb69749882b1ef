"""What commands print on a terminal: one style of tables, and strings from data shown as text."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from .errors import printable


def say(*parts: object, error: bool = False) -> None:
    """Print a line of text on stdout (error: on stderr), with unprintable characters escaped."""
    print(printable(" ".join(map(str, parts))), file=sys.stderr if error else sys.stdout, flush=True)


def print_text(text: str) -> None:
    """Print a text of several lines, which ends with its own line break, on stdout; other characters as `say`."""
    sys.stdout.write(printable(text, keep="\n"))


def print_json(text: str) -> None:
    """Print JSON; characters that a terminal could obey become escapes of JSON, which mean the same."""
    print("".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text))


def counted(count: int, noun: str) -> str:
    """A number of things, whose plural is regular.

    >>> counted(1, "row"), counted(1200, "row"), counted(2, "trajectory")
    ('1 row', '1,200 rows', '2 trajectories')
    """
    plural = f"{noun[:-1]}ies" if noun.endswith("ry") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else plural}"


class TextConsole(Console):
    """A console on which every string is text: no markup, no emoji codes, control and bidi characters escaped.

    Styles come from `Text` and `style` arguments alone, so names of prompts, models or files need no care.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """`text` with unprintable characters escaped, line by line."""
        return super().render_str(printable(text, keep="\n"), **settings)


def print_table(table: RenderableType, wide: bool = False) -> None:
    """Print tables in the width of the terminal (80 columns where there is none); wide: at their full width."""
    console = TextConsole()
    if wide:
        console.width = max(console.width, TextConsole(width=1000).measure(table).maximum)
    console.print(table)


def table_text(table: RenderableType) -> str:
    """What `print_table` prints, in 80 columns and without colours: for `repr`."""
    text = io.StringIO()
    TextConsole(file=text, width=80, color_system=None, force_jupyter=False).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def stacked(tables: Sequence[RenderableType]) -> Group:
    """Tables one below the other, with an empty line between them."""
    return Group(*(part for number, table in enumerate(tables) for part in (["", table] if number else [table])))


def plain_table(*headings: str, title: str = "", caption: str = "", left: Sequence[str] = ()) -> Table:
    """A table of figures: `left` columns hold names, which wrap where space is short; figures never do."""
    columns = (
        Column(heading, overflow="fold") if heading in left else Column(heading, justify="right", no_wrap=True)
        for heading in headings
    )
    return Table(
        *columns,
        title=title or None,
        caption=caption or None,
        box=SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        collapse_padding=True,
        title_justify="left",
        caption_justify="left",
    )
