"""The exception for problems that users can fix, and helpers for its messages."""

from __future__ import annotations


class NbenchError(Exception):
    """A problem that the user can fix. The message is one line: what is wrong, why, and what to do."""


class StorageError(NbenchError):
    """A disk or store that cannot be read or written, so that no other file would fare better."""


def one_line(text: str, longest: int = 400) -> str:
    """`text` from a file or another program, made safe for a message: printable, no line breaks, `longest` at most."""
    start = printable(text[:longest])
    return start if len(text) <= longest else f"{start}..."


def printable(text: str, keep: str = "") -> str:
    """`text` with escapes for characters that a terminal may obey or not show, except those in `keep`.

    >>> print(printable("a\\x1b[31m\\u202e\\n"))
    a\\x1b[31m\\u202e\\n
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else ascii(char)[1:-1] for char in text)


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


MOST_STEPS = MOST_CANDIDATES = 100_000
"""More denoising steps, or candidates of a prompt, are a slip of the pen."""
_MOST = 2**31 - 1


def check_range(name: str, value: float | None, low: float = 1, high: float = _MOST) -> None:
    """Refuse a `value` outside low..high (both included); None means not set and passes.

    Raises:
        NbenchError: the value is outside the range or not a number.

    >>> check_range("--limit", 0)
    Traceback (most recent call last):
    nbench.errors.NbenchError: --limit 0 is out of range: give 1 or more
    """
    if value is not None and not low <= value <= high:
        shown = f"{value:g}" if abs(value) < 1e15 or value != value else one_line(str(value), 40)
        allowed = f"{low:g} or more" if high == _MOST and value < low else f"{low:g}..{high}"
        raise NbenchError(f"{name} {shown} is out of range: give {allowed}")
