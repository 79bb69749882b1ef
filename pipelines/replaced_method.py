"""Replaces a method of one object, and puts back what was there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def replace_method(owner: Any, name: str, function: Callable[..., Any]) -> Callable[[], None]:
    """Put `function` in the place of the method `name` of the instance `owner`; returns what undoes it."""
    outer = vars(owner).get(name)
    setattr(owner, name, function)

    def restore() -> None:
        delattr(owner, name)  # the instance's attribute: the class's method shows again
        if outer is not None:
            setattr(owner, name, outer)

    return restore
