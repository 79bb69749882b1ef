"""Learns where the batch is in the arguments of a pipeline's denoiser: from calls that end before it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from diffusers.hooks import HookRegistry, ModelHook

from ..errors import NbenchError
from .batch_rows import BatchAxes, Call, batch_axes
from .calling import RunEnded, call_pipeline
from .denoisers import denoisers
from .options import as_called
from .quiet import no_progress_bar

_PROMPTS = ("red", "red red red")
_HOOK = "nbench_first_call"
_AXES: WeakKeyDictionary[Any, dict[str, BatchAxes]] = WeakKeyDictionary()


def axes_of(pipe: Any, arguments: Mapping[str, Any]) -> BatchAxes:
    """Where the batch is in the arguments of the denoisers of `pipe`, when it is called with `arguments`.

    The pipeline is called twice, for two and for three prompts, up to the first call of a denoiser, which never runs.

    Raises:
        NbenchError: it does not run, or it cannot be told.
    """
    known = _AXES.setdefault(pipe, {})
    key = repr(sorted(arguments.items()))
    if key not in known:
        known[key] = batch_axes(*(_first_call(pipe, count, arguments) for count in (2, 3)))
    return known[key]


def share_axes(pipe: Any, view: Any) -> None:
    """What is learned of `pipe` or of `view`, a shallow copy of it, holds for both."""
    _AXES[view] = _AXES.setdefault(pipe, {})


class _Called(RunEnded):
    """Ends a run at the first call of a denoiser, which it carries."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.call = call


class _End(ModelHook):
    @torch.compiler.disable
    def new_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        raise _Called((args, kwargs))


def _first_call(pipe: Any, count: int, arguments: Mapping[str, Any]) -> Call:
    prompts = [_PROMPTS[i % 2] for i in range(count)]
    generators = [torch.Generator().manual_seed(i) for i in range(count)]
    called = as_called(pipe, dict(arguments), count)
    hooked = [Hooked(module, _End(), _HOOK) for module in denoisers(pipe)]
    try:
        with no_progress_bar(pipe):
            call_pipeline(pipe, prompt=prompts, generator=generators, **called)
    except _Called as ended:
        return ended.call
    finally:
        for one in hooked:
            one.remove()
        if hasattr(pipe, "maybe_free_model_hooks"):
            pipe.maybe_free_model_hooks()
    raise NbenchError(f"{type(pipe).__name__} does not call its denoiser: candidates cannot be stopped early")


class Hooked:
    """A hook of diffusers on a module, which `remove` leaves as it was."""

    def __init__(self, module: torch.nn.Module, hook: ModelHook, name: str) -> None:
        self._module, self._name = module, name
        self._new, self._outer = not hasattr(module, "_diffusers_hook"), vars(module).get("forward")
        HookRegistry.check_if_exists_or_initialize(module).register_hook(hook, name)

    def remove(self) -> None:
        """Take the hook away."""
        HookRegistry.check_if_exists_or_initialize(self._module).remove_hook(self._name, recurse=False)
        if self._outer is None:
            del self._module.forward  # the registry leaves the bound method behind
        if self._new:
            del self._module._diffusers_hook
