"""The one exception that users can fix themselves, and how its messages are worded."""

from __future__ import annotations

import math


class NbenchError(Exception):
    """A problem that the user can fix. The message is one line: what, why, and what to do about it."""


def one_line(text: str, longest: int = 400) -> str:
    """`text` from a file or another program, safe to repeat in a message: printable, without line breaks, cut."""
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text[:longest])
    return shown if len(text) <= longest else f"{shown}..."


def reason_of(error: BaseException) -> str:
    """Why `error` was raised, in one printable line: the system's reason, else its text, else its type.

    >>> reason_of(FileNotFoundError(2, "No such file or directory", "a")), reason_of(ValueError("bad\\nvalue"))
    ('No such file or directory', 'bad value')
    >>> reason_of(KeyError())
    'KeyError'
    """
    text = getattr(error, "strerror", None) or str(error)
    return one_line(" ".join(text.split())) or type(error).__name__


def failure_of(error: BaseException) -> str:
    """The type of an exception of somebody's own code and its reason, in one printable line.

    >>> failure_of(ValueError("bad\\nmore")), failure_of(ValueError())
    ('ValueError: bad more', 'ValueError')
    """
    kind, reason = type(error).__name__, reason_of(error)
    return kind if reason == kind else f"{kind}: {reason}"


def check_range(name: str, value: float | None, low: float = 1, high: float = math.inf) -> None:
    """Refuse a `value` outside low..high, both included; None is not given, so not refused.

    Raises:
        NbenchError: it is outside, or not a number.

    >>> check_range("--limit", 0)
    Traceback (most recent call last):
    nbench.errors.NbenchError: --limit 0 is out of range: give 1 or more
    """
    if value is not None and not low <= value <= high:
        allowed = f"{low:g} or more" if high == math.inf else f"{low:g}..{high:g}"
        raise NbenchError(f"{name} {value:g} is out of range: give {allowed}")
