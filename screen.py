"""Rich's console and tables for text from data: markup and emoji codes are text, control characters shown escaped."""

from __future__ import annotations

from typing import Any

from rich import console, table
from rich.console import RenderableType
from rich.text import Text

from .errors import printable


class Table(table.Table):  # noqa: TID251
    """A table whose cells, headings, title and caption are text as it is; give `Text` for a style."""

    def __init__(self, *headers: str, title: str = "", caption: str = "", **settings: Any) -> None:
        settings["title"] = Text(printable(title), "table.title") if title else None
        settings["caption"] = Text(printable(caption), "table.caption") if caption else None
        super().__init__(*headers, **settings)

    def add_column(self, header: RenderableType = "", *arguments: Any, **settings: Any) -> None:
        super().add_column(_text(header, "\n"), *arguments, **settings)

    def add_row(self, *cells: RenderableType | None, **settings: Any) -> None:
        super().add_row(*map(_text, cells), **settings)


class Console(console.Console):  # noqa: TID251
    """A console on stdout, or on stderr with `stderr`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """`text` without markup; control characters other than line breaks are escaped."""
        return super().render_str(printable(text, keep="\n"), **settings)


def _text(cell: Any, keep: str = "") -> Any:
    """A string as `Text`, which no console reads as markup; anything else stays as it is."""
    return Text(printable(cell, keep)) if isinstance(cell, str) else cell
