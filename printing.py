"""What commands print: text from data, files and other programs is shown escaped, so that a terminal cannot obey it."""

from __future__ import annotations

import json
import sys

from .errors import printable


def echo(*values: object, err: bool = False, keep: str = "", end: str = "\n") -> None:
    """Print values on stdout, or on stderr with `err`, as `print` does; keep: "\\n" for a text of several lines.

    All output goes through here, or through `screen` for tables.
    """
    stream = sys.stderr if err else sys.stdout
    stream.write(printable(" ".join(map(str, values)), keep) + end)
    stream.flush()


def echo_json(text: str) -> None:
    """Print JSON; characters that a terminal could obey become escapes of JSON, which mean the same."""
    sys.stdout.write("".join(char if char.isprintable() or char == "\n" else _json_escape(char) for char in text))
    sys.stdout.write("\n")


def _json_escape(char: str) -> str:
    return json.dumps(char)[1:-1]
