"""Commands that share their options: one function turns what is given into a configuration, others carry it out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from typing import Any, get_type_hints


class Configured:
    """`carry_out` with the parameters of `options` in place of the one that is annotated with what `options` returns.

    typer sees it as a function of all of them, and it may itself be the options of another; `without` keeps parameters
    of `options` at their defaults.
    """

    def __init__(
        self, name: str, options: Callable[..., Any], carry_out: Callable[..., Any], without: Collection[str] = ()
    ) -> None:
        self.options, self._carry_out = options, carry_out
        configuration = options.__annotations__["return"]
        shared = [each for each in _parameters(options, {"return"}) if each.name not in without]
        (self._taken,) = (each for each, kind in carry_out.__annotations__.items() if kind == configuration)
        own = _parameters(carry_out, {self._taken, "return"})
        place = [each.name for each in own].index(self._taken)
        self._shared = {each.name for each in shared}
        self.__name__, self.__doc__ = name, carry_out.__doc__ or options.__doc__
        self.__signature__ = inspect.Signature([*own[:place], *shared, *own[place + 1 :]])
        self.__annotations__ = {each.name: each.annotation for each in self.__signature__.parameters.values()}
        self.__annotations__["return"] = carry_out.__annotations__["return"]

    def __call__(self, **given: Any) -> Any:
        """Configure, and carry out."""
        shared = {name: given.pop(name) for name in self._shared}
        return self._carry_out(**{self._taken: self.options(**shared)}, **given)


def configured(
    carry_out: Callable[..., Any], without: Collection[str] = ()
) -> Callable[[Callable[..., Any]], Configured]:
    """Make a function that returns a configuration a command, which carries the configuration out."""
    return lambda options: Configured(options.__name__, options, carry_out, without)


def configured_by(options: Callable[..., Any]) -> Callable[[Callable[..., Any]], Configured]:
    """Give a function, in place of the configuration that it takes, the parameters of what makes one."""
    return lambda carry_out: Configured(carry_out.__name__, options, carry_out)


def _parameters(function: Callable[..., Any], unresolved: Collection[str]) -> list[inspect.Parameter]:
    """Those of `function`, by name, with annotations that are objects; names of `unresolved` ones need not exist."""
    named = {str(function.__annotations__[name]): object for name in unresolved}
    hints = get_type_hints(function, localns=named, include_extras=True)
    parameters = inspect.signature(function).parameters.values()
    return [each.replace(annotation=hints[each.name], kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
