"""Stops candidates of a running batch: the denoiser and the VAE compute the rows of the living only."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers.hooks import HookRegistry, ModelHook

from ..errors import NbenchError
from .batch_rows import batch_of, cut_call, rows_of, scatter
from .padded_batch import padded

_HOOK = "nbench_pruning"
_DENOISERS = ("unet", "transformer", "transformer_2")


class Pruner:
    """While entered, the pipeline's denoiser and its VAE's `decode` see the living of `batch` candidates only.

    Pipeline and scheduler stay stock and go on with the whole batch: of the dead they get zeros. Guidance may repeat
    the batch in one call, call twice a step, or be embedded. The survivors come out as in the full run but for the
    last bits, as a matrix product of another size rounds otherwise. Of a compiled denoiser the batch shrinks to powers
    of two only, so that it is compiled a few times and not for every number of survivors.

    Attributes:
        living: the candidates not stopped, ascending; all at first.
        rows: what the denoiser has computed; guidance doubles them.
        asked: what the pipeline has asked of it, as it would compute without pruning.

    Raises (on entering):
        NbenchError: the pipeline has no denoiser, or one that caches what a batch of another size would not fit.
    """

    def __init__(self, pipe: Any, batch: int) -> None:
        self.living = list(range(batch))
        self.batch, self.rows, self.asked = batch, 0, 0
        self._name = type(pipe).__name__
        self._denoisers = [
            module for module in (getattr(pipe, name, None) for name in _DENOISERS) if module is not None
        ]
        self._vae = getattr(pipe, "vae", None)
        self._undo: list[Callable[[], None]] = []

    def keep(self, candidates: Sequence[int]) -> None:
        """Stop all candidates but these, from the next call of the denoiser on."""
        self.living = sorted(candidates)

    def __enter__(self) -> Pruner:
        if not self._denoisers:
            raise NbenchError(f"{self._name} has no {' or '.join(_DENOISERS[:2])}: there is nothing to prune in")
        for module in self._denoisers:
            if getattr(module, "is_cache_enabled", False):
                raise NbenchError(f"the cache of {type(module).__name__} keeps whole batches: disable_cache() to prune")
        for module in self._denoisers:
            self._hook(module)
        if self._vae is not None:
            self._wrap_decode(self._vae)
        return self

    def __exit__(self, *exception: object) -> None:
        while self._undo:
            self._undo.pop()()

    def _hook(self, module: torch.nn.Module) -> None:
        new = not hasattr(module, "_diffusers_hook")
        outer = vars(module).get("forward")
        HookRegistry.check_if_exists_or_initialize(module).register_hook(_LivingRows(self, _is_compiled(module)), _HOOK)

        def undo() -> None:
            HookRegistry.check_if_exists_or_initialize(module).remove_hook(_HOOK, recurse=False)
            if outer is None:
                del module.forward  # the registry leaves the bound method behind
            if new:
                del module._diffusers_hook

        self._undo.append(undo)

    def _wrap_decode(self, vae: Any) -> None:
        decode, outer = vae.decode, vars(vae).get("decode")

        @functools.wraps(decode)
        def living(latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if len(latents) != self.batch or len(self.living) == self.batch:
                return decode(latents, *args, **kwargs)
            args, kwargs = cut_call((latents, *args), kwargs, self.living, self.batch, as_list=False)
            return scatter(decode(*args, **kwargs), self.living, self.batch)

        def undo() -> None:
            del vae.decode
            if outer is not None:
                vae.decode = outer

        vae.decode = living
        self._undo.append(undo)

    def computed(self, compiled: bool) -> list[int]:
        """The candidates that a call computes: the living, and under compilation some dead to fill the batch up."""
        if not compiled:
            return self.living
        living = set(self.living)
        dead = [candidate for candidate in range(self.batch) if candidate not in living]
        return sorted(self.living + dead[: padded(len(living), self.batch) - len(living)])


class _LivingRows(ModelHook):
    def __init__(self, pruner: Pruner, compiled: bool) -> None:
        super().__init__()
        self._pruner, self._compiled = pruner, compiled

    # the hook itself is not to be traced, what it calls is
    @torch.compiler.disable(recursive=False)
    def new_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        pruner, forward = self._pruner, self.fn_ref.original_forward
        total, as_list = batch_of((*args, *kwargs.values()))
        rows = rows_of(pruner.computed(self._compiled), pruner.batch, total)
        pruner.rows, pruner.asked = pruner.rows + len(rows), pruner.asked + total
        if len(rows) == total:
            return forward(*args, **kwargs)
        args, kwargs = cut_call(args, kwargs, rows, total, as_list)
        return scatter(forward(*args, **kwargs), rows, total)


def is_compiled(pipe: Any) -> bool:
    """Whether the denoiser, or any block of it, is compiled."""
    return any(
        _is_compiled(module) for module in (getattr(pipe, name, None) for name in _DENOISERS) if module is not None
    )


def _is_compiled(module: torch.nn.Module) -> bool:
    return hasattr(module, "_orig_mod") or any(part._compiled_call_impl is not None for part in module.modules())
