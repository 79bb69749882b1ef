"""Stops candidates of a running batch: the denoiser and the VAE compute the rows of the living only."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakSet

import torch
from diffusers.hooks import ModelHook

from ..errors import NbenchError
from .batch_axes import Hooked, axes_of
from .batch_rows import BatchAxes, Call, batch_of, placed, rows_of, scatter, taken
from .denoisers import DENOISERS, denoisers
from .padded_batch import padded
from .replaced_method import replace_method

_HOOK = "nbench_pruning"
_LOCK, _RESERVED = threading.Lock(), WeakSet[Any]()


class Pruner:
    """While entered, the pipeline's denoiser and its VAE's `decode` see the living of `batch` candidates only.

    Pipeline and scheduler stay stock and go on with the whole batch: of the dead they get zeros. Guidance may repeat
    the batch in one call, call twice a step, or be embedded. The survivors come out as in the full run but for the
    last bits, as a matrix product of another size rounds otherwise. Of a compiled denoiser the batch shrinks to powers
    of two only, so that it is compiled a few times and not for every number of survivors.

    A candidate that stopped can go on in a later run. What the denoiser answered for it, call by call, is kept, and
    given again to the same call of the later run: pipeline and scheduler come to where they were, whatever state they
    have, and only then is the candidate computed.

    Args:
        arguments: what the pipeline is called with beside prompts and generators.
        answers: by candidate, a list to keep its answers in.
        again: candidates that go on: their answers are given again.

    Attributes:
        living: the candidates not stopped, ascending; all at first.
        rows: what the denoiser has computed; guidance doubles them.
        asked: what the pipeline has asked of it in its own calls, as it would compute without pruning.

    Raises (on entering):
        NbenchError: the pipeline has no denoiser, one that caches what a batch of another size would not fit, or one
            of whose arguments it cannot be told where they hold the batch.
    """

    def __init__(
        self,
        pipe: Any,
        batch: int,
        arguments: Mapping[str, Any],
        answers: Mapping[int, list[Any]] | None = None,
        again: Collection[int] = (),
    ) -> None:
        self.living = list(range(batch))
        self._calls, self._beside = 0, False
        self._answers = dict(answers or {})
        self._known = {candidate: len(self._answers[candidate]) for candidate in again}
        self.batch, self.rows, self.asked = batch, 0, 0
        self._pipe, self._arguments, self._denoisers = pipe, arguments, denoisers(pipe)
        self._axes: BatchAxes | None = None
        self._vae = getattr(pipe, "vae", None)
        self._undo: list[Callable[[], None]] = []

    def keep(self, candidates: Sequence[int]) -> None:
        """Stop all candidates but these, from the next call of the denoiser on."""
        self.living = sorted(candidates)

    def repeats(self, candidate: int) -> bool:
        """Whether the latest call was answered for a candidate as before; true before the first call too."""
        return self._calls <= self._known.get(candidate, -1)

    def forget(self) -> None:
        """Keep no more answers."""
        self._answers = {candidate: self._answers[candidate] for candidate in self._known}

    @contextlib.contextmanager
    def beside(self) -> Iterator[None]:
        """While entered, calls are none of the run's own: they are not kept."""
        self._beside = True
        try:
            yield
        finally:
            self._beside = False

    def __enter__(self) -> Pruner:
        if not self._denoisers:
            name = type(self._pipe).__name__
            raise NbenchError(f"{name} has none of {', '.join(DENOISERS)}: candidates cannot be stopped early")
        refuse_caches(self._pipe)
        self._axes = axes_of(self._pipe, self._arguments)
        for module in self._denoisers:
            self._undo.append(Hooked(module, _LivingRows(self, _is_compiled(module)), _HOOK).remove)
        if self._vae is not None:
            self._wrap_decode(self._vae)
        return self

    def __exit__(self, *exception: object) -> None:
        while self._undo:
            self._undo.pop()()

    def _wrap_decode(self, vae: Any) -> None:
        decode = vae.decode

        @functools.wraps(decode)
        def living(latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if len(latents) != self.batch or len(self.living) == self.batch:
                return decode(latents, *args, **kwargs)
            rows = torch.tensor(self.living, device=latents.device)
            return scatter(decode(latents[rows], *args, **kwargs), self.living, self.batch)

        self._undo.append(replace_method(vae, "decode", living))

    def begin(self, arguments: Sequence[Any]) -> int:
        """A call begins; returns how many rows it has."""
        total = batch_of(arguments)
        if not self._beside:
            self._calls, self.asked = self._calls + 1, self.asked + total
        return total

    def cut(self, call: Call, rows: Sequence[int], total: int) -> Call:
        """The arguments of a call of a denoiser with `total` rows, cut to `rows`."""
        assert self._axes is not None
        return self._axes.cut(call, rows, total)

    def computed(self, compiled: bool) -> list[int]:
        """The candidates that a call computes: the living, and under compilation some dead to fill the batch up."""
        living = [candidate for candidate in self.living if not self.repeats(candidate)]
        if not compiled or not living:
            return living
        dead = [candidate for candidate in range(self.batch) if candidate not in living]
        return sorted(living + dead[: padded(len(living), self.batch) - len(living)])

    def answered(self, output: Any, total: int) -> Any:
        """The output of a call of `total` rows (None: nothing was computed) with what is given again; keeps the rest.

        The candidates that answers are given for again are those of a whole run, so there is something to answer.
        """
        for candidate in () if self._beside else self.living:
            rows = rows_of([candidate], self.batch, total)
            if self.repeats(candidate):
                known = self._answers[candidate][self._calls - 1]
                output = scatter(known, rows, total) if output is None else placed(known, rows, output)
            elif candidate in self._answers and candidate not in self._known:
                self._answers[candidate].append(taken(output, rows, total))
        return output


class _LivingRows(ModelHook):
    def __init__(self, pruner: Pruner, compiled: bool) -> None:
        super().__init__()
        self._pruner, self._compiled = pruner, compiled

    # the hook itself is not to be traced, what it calls is
    @torch.compiler.disable(recursive=False)
    def new_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        pruner, forward = self._pruner, self.fn_ref.original_forward
        total = pruner.begin((*args, *kwargs.values()))
        rows = rows_of(pruner.computed(self._compiled), pruner.batch, total)
        pruner.rows += len(rows)
        output = None
        if len(rows) == total:
            output = forward(*args, **kwargs)
        elif rows:
            args, kwargs = pruner.cut((args, kwargs), rows, total)
            output = scatter(forward(*args, **kwargs), rows, total)
        return pruner.answered(output, total)


@contextlib.contextmanager
def reserved(pipe: Any) -> Iterator[None]:
    """While entered, nobody else may prune in the denoisers of `pipe`: hooks of two runs would cut each other's rows.

    Raises:
        NbenchError: somebody does.
    """
    models = denoisers(pipe)
    with _LOCK:
        if any(model in _RESERVED for model in models):
            raise NbenchError(
                f"this {type(pipe).__name__} is in use by another thread or engine: nbench.Engine runs several "
                "requests at a time"
            )
        _RESERVED.update(models)
    try:
        yield
    finally:
        with _LOCK:
            _RESERVED.difference_update(models)


def is_compiled(pipe: Any) -> bool:
    """Whether the denoiser, or any block of it, is compiled."""
    return any(map(_is_compiled, denoisers(pipe)))


def refuse_caches(pipe: Any) -> None:
    """Refuse a pipeline with a cache of diffusers: a hook that keeps a state from call to call, whichever function put
    it on.

    Raises:
        NbenchError: a denoiser has one.
    """
    for denoiser in denoisers(pipe):
        for module in denoiser.modules():
            hooks = getattr(module, "_diffusers_hook", None)
            cache = next((hook for hook in (hooks.hooks.values() if hooks else ()) if hook._is_stateful), None)
            if cache is not None:
                raise NbenchError(
                    f"{type(denoiser).__name__} has a cache ({type(cache).__name__}), which keeps whole batches: "
                    "open the pipeline without it"
                )


def _is_compiled(module: torch.nn.Module) -> bool:
    return hasattr(module, "_orig_mod") or any(part._compiled_call_impl is not None for part in module.modules())
