"""Figures as text, the same in every table."""

from __future__ import annotations

from ..metrics.declaration import CI

UNKNOWN = "-"


def number(value: float | None) -> str:
    """Three decimals; `-` for None.

    >>> number(-0.00001), number(None)
    ('0.000', '-')
    """
    return UNKNOWN if value is None else f"{value:z.3f}"


def whole(value: float | None) -> str:
    """A count; `-` for None."""
    return UNKNOWN if value is None else f"{value:.0f}"


def with_ends(value: float | None, interval: CI) -> str:
    """A figure and its interval in brackets.

    >>> with_ends(0.5, (0.4, 0.6))
    '0.500 [0.400, 0.600]'
    """
    return number(value) + (
        f" [{number(interval[0])}, {number(interval[1])}]" if interval and value is not None else ""
    )


def half_width(interval: CI) -> str:
    """Half the width of an interval after `±`; as many spaces for None."""
    return "      " if interval is None else f"±{(interval[1] - interval[0]) / 2:.3f}"


def difference(value: float | None, low: float | None, high: float | None) -> str:
    """A signed figure and its interval.

    >>> difference(0.5, 0.4, 0.6)
    '+0.500 (+0.400 .. +0.600)'
    """
    if value is None:
        return UNKNOWN
    return f"{value:+z.3f}" + ("" if low is None or high is None else f" ({low:+z.3f} .. {high:+z.3f})")
