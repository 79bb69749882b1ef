"""The exception for problems that users can fix, and helpers for its messages."""

from __future__ import annotations

import math


class NbenchError(Exception):
    """A problem that the user can fix. The message is one line: what is wrong, why, and what to do."""


class StorageError(NbenchError):
    """A disk or store that cannot be read or written, so that no other file would fare better."""


def one_line(text: str, longest: int = 400) -> str:
    """`text` from a file or another program, made safe for a message: printable, no line breaks, `longest` at most."""
    printable = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text[:longest])
    return printable if len(text) <= longest else f"{printable}..."


def reason_of(error: BaseException) -> str:
    """Why `error` was raised, in one printable line: the system's reason, else the message, else the type.

    >>> reason_of(FileNotFoundError(2, "No such file or directory", "a")), reason_of(ValueError("bad\\nvalue"))
    ('No such file or directory', 'bad value')
    >>> reason_of(KeyError())
    'KeyError'
    """
    text = getattr(error, "strerror", None) or str(error)
    return one_line(" ".join(text.split())) or type(error).__name__


def failure_of(error: BaseException) -> str:
    """The type and reason of an exception from user code, in one printable line.

    >>> failure_of(ValueError("bad\\nmore")), failure_of(ValueError())
    ('ValueError: bad more', 'ValueError')
    """
    kind, reason = type(error).__name__, reason_of(error)
    return kind if reason == kind else f"{kind}: {reason}"


def check_range(name: str, value: float | None, low: float = 1, high: float = math.inf) -> None:
    """Refuse a `value` outside low..high (both included); None means not set and passes.

    Raises:
        NbenchError: the value is outside the range or not a number.

    >>> check_range("--limit", 0)
    Traceback (most recent call last):
    nbench.errors.NbenchError: --limit 0 is out of range: give 1 or more
    """
    if value is not None and not low <= value <= high:
        allowed = f"{low:g} or more" if high == math.inf else f"{low:g}..{high:g}"
        raise NbenchError(f"{name} {value:g} is out of range: give {allowed}")
