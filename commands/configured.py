"""Commands that share their options: one function turns what is given into a configuration, others carry it out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from typing import Any, get_type_hints


class Configured:
    """A command with the parameters of `options`, and of `carry_out` those after the first, which `options` gives.

    typer sees it as a function of all of them; `without` keeps parameters of `options` at their defaults.
    """

    def __init__(self, options: Callable[..., Any], carry_out: Callable[..., None], without: Collection[str]) -> None:
        self.options, self._carry_out = options, carry_out
        shared = [each for each in _parameters(options, {"return"}) if each.name not in without]
        self._own = {
            each.name: each
            for each in _parameters(carry_out, {next(iter(inspect.signature(carry_out).parameters))})[1:]
        }
        self.__name__, self.__doc__ = options.__name__, carry_out.__doc__ or options.__doc__
        self.__signature__ = inspect.Signature([*shared, *self._own.values()])
        self.__annotations__ = {each.name: each.annotation for each in self.__signature__.parameters.values()}

    def __call__(self, **given: Any) -> None:
        """Configure, and carry out."""
        own = {name: given.pop(name) for name in self._own}
        self._carry_out(self.options(**given), **own)


def configured(
    carry_out: Callable[..., None], without: Collection[str] = ()
) -> Callable[[Callable[..., Any]], Configured]:
    """Make a function that returns a configuration a command, which carries the configuration out."""
    return lambda options: Configured(options, carry_out, without)


def _parameters(function: Callable[..., Any], unresolved: Collection[str]) -> list[inspect.Parameter]:
    """Those of `function`, by name, with annotations that are objects; names of `unresolved` ones need not exist."""
    named = {str(function.__annotations__[name]): object for name in unresolved}
    hints = get_type_hints(function, localns=named, include_extras=True)
    parameters = inspect.signature(function).parameters.values()
    return [each.replace(annotation=hints[each.name], kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
