"""Replaces a method of one object, and puts back what was there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_undone: dict[int, Any] = {}
"""Of methods that were undone while another was in their place: what had been there, by id(), until that is undone."""


def replace_method(owner: Any, name: str, function: Callable[..., Any]) -> Callable[[], None]:
    """Put `function` in the place of the method `name` of the instance `owner`; returns what undoes it.

    Several may be undone in any order: one that is below another stays until that is undone, too.
    """
    outer = vars(owner).get(name)
    setattr(owner, name, function)

    def restore() -> None:
        if vars(owner).get(name) is not function:
            _undone[id(function)] = outer
            return
        shown = outer
        while id(shown) in _undone:
            shown = _undone.pop(id(shown))
        delattr(owner, name)  # the instance's attribute: the class's method shows again
        if shown is not None:
            setattr(owner, name, shown)

    return restore
