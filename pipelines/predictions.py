"""What the denoiser itself gives at a step: its predictions with and without the prompt, and what its layers give."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import torch

from ..errors import NbenchError
from ..shards.signals import ATTENTION, Activations
from .attention import reads_text, tap_attention
from .denoisers import DENOISERS, denoisers

_PROJECTION_SEED = 0


class PredictionWatch:
    """Hooks on a pipeline's denoiser: what was predicted, and what layers gave, since the last `take`.

    Raises:
        NbenchError: there is no denoiser to watch, or no such layer in it.
    """

    def __init__(self, pipe: Any, layers: Sequence[Activations]) -> None:
        self._pipe = pipe
        models = denoisers(pipe)
        if not models:
            name = type(pipe).__name__
            raise NbenchError(f"{name} has none of {', '.join(DENOISERS)}: record without cfg_gap and activations")
        named = [dict(model.named_modules()) for model in models]
        for layer in layers:
            for model, modules in zip(models, named, strict=True):
                if layer.layer not in modules:
                    near = get_close_matches(layer.layer, modules, 3) or list(modules)[1:4]
                    raise NbenchError(f"no layer {layer.layer!r} in {type(model).__name__}: near it {', '.join(near)}")
                if layer.prefix == ATTENTION and not reads_text(modules[layer.layer]):
                    names = [name for name, module in modules.items() if reads_text(module)]
                    near = get_close_matches(layer.layer, names, 3) or names[:3] or ["none"]
                    raise NbenchError(
                        f"layer {layer.layer!r} of {type(model).__name__} does not attend to the prompt: those that do "
                        f"are {', '.join(near)}"
                    )
        self._predictions: list[torch.Tensor] = []
        self._pooled: dict[str, list[torch.Tensor]] = {layer.key: [] for layer in layers}
        self._layers, self._projections = layers, dict[str, torch.Tensor]()
        self._conditional: int | None = None
        self._undo = [model.register_forward_hook(self._predicted).remove for model in models]
        for layer, modules in itertools.product(layers, named):
            if layer.prefix == ATTENTION:
                self._undo.append(tap_attention(modules[layer.layer], layer.layer, self._attended(layer)))
                continue
            masks: dict[tuple[int, int], torch.Tensor] = {}
            around = [modules[name] for name in _around(layer.layer) if name in modules]
            self._undo += [
                module.register_forward_pre_hook(_masked(masks), with_kwargs=True).remove for module in around
            ]
            self._undo.append(modules[layer.layer].register_forward_hook(self._activated(layer, masks)).remove)

    def close(self) -> None:
        """Take the hooks away."""
        for undo in reversed(self._undo):
            undo()

    def restart(self) -> None:
        """A new run begins: which half of a batch has the prompt is to be found out anew."""
        self._conditional = None

    def discard(self) -> None:
        """Forget the calls since the last `take`, which belong to no step of the run."""
        self._predictions, self._pooled = [], {name: [] for name in self._pooled}

    def take(
        self, guided: torch.Tensor, count: int, gap: bool, computed: int | None = None
    ) -> tuple[torch.Tensor | None, dict[str, torch.Tensor]]:
        """What this step gave for `count` candidates: the gap, float32 [count], and by layer activations [computed, D].

        `guided` is the prediction that the scheduler is given, without its variance; `computed` of the candidates have
        gone through the layers, all unless some were pruned.

        Raises:
            NbenchError: no two predictions a candidate, so no gap; or activations that are not one vector a candidate.
        """
        predictions = [each[:, : guided.shape[1]] for each in self._predictions]
        halves = [half for each in predictions for half in each.split(count)]
        rows, pooled = sum(map(len, predictions)), self._pooled
        self.discard()
        if rows not in (count, 2 * count) or (gap and rows == count):
            told = "one prediction" if rows == count else f"{rows / count:g} predictions"
            way = "raise --guidance where it guides at all, or do without cfg_gap" if gap else "do without activations"
            raise NbenchError(f"the pipeline makes {told} a step and image, where two make a guidance gap: {way}")
        found = None
        if gap and getattr(self._pipe, "do_perturbed_attention_guidance", False):
            raise NbenchError(
                "perturbed attention guidance predicts twice with the prompt, which is no guidance gap: "
                "leave pag_scale out, or do without cfg_gap"
            )
        if gap:
            found = torch.linalg.vector_norm((halves[1].float() - halves[0].float()).flatten(1), dim=1)
        place = 0
        if computed == 0:
            return found, {}
        if pooled and rows > count:
            if self._conditional is None:
                self._conditional = _conditional(halves, guided)
            place = self._conditional
        chosen = {name: _divided(name, each, computed or count, len(halves))[place] for name, each in pooled.items()}
        return found, chosen

    def _predicted(self, module: torch.nn.Module, given: Any, output: Any) -> None:
        self._predictions.append(_rows(output).detach())

    def _activated(self, layer: Activations, masks: dict[tuple[int, int], torch.Tensor]) -> Any:
        def hook(module: torch.nn.Module, given: Any, output: Any) -> None:
            values = _rows(output)
            if not isinstance(values, torch.Tensor) or values.ndim < 2:
                raise _unfit(layer.layer)
            self._pooled[layer.key].append(self._projected(layer, _pool(values.detach(), masks)))

        return hook

    def _attended(self, layer: Activations) -> Any:
        def take(statistics: torch.Tensor) -> None:
            if layer.width not in (None, statistics.shape[1]):
                raise NbenchError(
                    f"layer {layer.layer} gives {statistics.shape[1]} numbers, not {layer.width}: name no DIM; prompts "
                    "that are padded to the longest of a call have no fixed number of tokens"
                )
            self._pooled[layer.key].append(statistics)

        return take

    def _projected(self, layer: Activations, pooled: torch.Tensor) -> torch.Tensor:
        channels = pooled.shape[1]
        if layer.width is None or layer.width == channels:
            return pooled
        if layer.width > channels:
            raise NbenchError(f"layer {layer.layer} has {channels} channels: give a DIM of at most {channels}")
        if layer.layer not in self._projections:
            self._projections[layer.layer] = projection(channels, layer.width).to(pooled.device)
        return pooled @ self._projections[layer.layer]


def projection(channels: int, width: int) -> torch.Tensor:
    """The random projection of activations, [channels, width]: Gaussian of variance 1 / width, always the same.

    So distances stay as they are on average (Johnson and Lindenstrauss).
    """
    return torch.randn(channels, width, generator=torch.Generator().manual_seed(_PROJECTION_SEED)) / width**0.5


def _divided(layer: str, pooled: list[torch.Tensor], count: int, predictions: int) -> list[torch.Tensor]:
    """What a layer gave for each of so many predictions, [count, D] each."""
    halves = [half for each in pooled for half in each.split(count)]
    if len(halves) != predictions or any(len(half) != count for half in halves):
        raise _unfit(layer)
    return halves


def _unfit(layer: str) -> NbenchError:
    return NbenchError(f"layer {layer} does not give one output a denoiser call and image: choose another")


def _rows(output: Any) -> Any:
    """The tensor in what a module returns: itself, or the first of a tuple, of an output class or of a list of rows.

    SD3's last block returns None in the place of the text, whose stream ends there.
    """
    if isinstance(output, torch.Tensor):
        return output
    parts = output.values() if isinstance(output, Mapping) else output
    first = next((part for part in parts or () if part is not None), None)
    return torch.stack(first) if isinstance(first, list) else first


def _around(layer: str) -> list[str]:
    """A layer by its name, and the modules that it is part of, outermost first; the denoiser itself has no name.

    >>> _around("blocks.0.attn")
    ['', 'blocks', 'blocks.0', 'blocks.0.attn']
    """
    parts = layer.split(".")
    return [".".join(parts[:count]) for count in range(len(parts) + 1)]


def _masked(masks: dict[tuple[int, int], torch.Tensor]) -> Any:
    """A hook that notes by shape the attention masks, bool [rows, tokens], of the tokens that a module computes.

    Masks of what it attends to beside them (`encoder_attention_mask`) are none of its own tokens.
    """

    def hook(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        named = inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments
        for name, value in named.items():
            if "mask" in name and not name.startswith("encoder") and isinstance(value, torch.Tensor):
                tokens = value.flatten(1) if value.ndim > 1 and value[0].numel() == value.shape[-1] else None
                if tokens is not None:
                    masks[tuple(tokens.shape)] = _real(tokens.detach())  # type: ignore[index]

    return hook


def _real(mask: torch.Tensor) -> torch.Tensor:
    """Where a mask says that there is a token: true, or 1; of one that is added to attention scores, 0."""
    added = mask.is_floating_point() and bool((mask <= 0).all())
    return mask == 0 if added else mask > 0


def _pool(output: torch.Tensor, masks: Mapping[tuple[int, int], torch.Tensor]) -> torch.Tensor:
    """Float32 [rows, channels]: the mean over places of [rows, channels, ...] or tokens of [rows, tokens, channels].

    Tokens that are padding by one of the `masks` do not count.
    """
    values = output.float()
    if values.ndim == 3:
        mask = masks.get((values.shape[0], values.shape[1]))
        if mask is not None and not mask.all():
            return (values * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        return values.mean(1)
    return values.flatten(2).mean(2) if values.ndim > 3 else values


def _conditional(halves: Sequence[torch.Tensor], guided: torch.Tensor) -> int:
    """Which of two predictions was made with the prompt: pipelines differ in their order, and some change the sign.

    Guided is g of the one and 1 - g of the other, g above 1, up to a factor: the larger share is that of the prompt.
    """
    both = torch.stack([half[0].flatten() for half in halves]).double().cpu()
    shares = torch.linalg.lstsq(both.T, guided[0].flatten().double().cpu()[:, None]).solution
    return int(shares.abs().argmax())
