"""Attention of image places to the prompt's tokens, pooled where it is computed: mass and spread of each token."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ..errors import NbenchError
from .replaced_method import replace_method

_CHUNK = 2**24
"""Attention weights held at a time."""
_PARAMETERS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")


def reads_text(module: torch.nn.Module) -> bool:
    """Whether a module has keys of the prompt: cross-attention, or joint attention with text projections of its own."""
    joint = getattr(module, "add_v_proj", None) is not None
    return joint or bool(getattr(module, "is_cross_attention", False))


def attention_statistics(
    query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, scale: float | None, text: slice
) -> torch.Tensor:
    """Mass and spread of each text token, float32 [B, 2 N]: N masses, then N spreads.

    The map of a token is the mean over heads of the attention that each image place pays to it. Its mass is the mean
    of the map over places; the masses of cross-attention add up to 1, those of joint attention to the share of text.
    Its spread is the entropy of the map, normalized to a distribution over places, over that of a uniform one: 0 if all
    is at one place, 1 if even; 0 of a token without mass, such as masked padding.

    Args:
        query: of image places, [B, heads, places, D].
        key: [B, heads, tokens, D]; those of `text` are the N tokens of the prompt.
        mask: bool, or added to the products; broadcast to [B, heads, places, tokens].
    """
    batch, heads, places, width = query.shape
    factor = 1 / math.sqrt(width) if scale is None else scale
    rows = max(1, _CHUNK // (batch * key.shape[2]))
    if mask is not None:
        mask = mask.expand(batch, heads, places, key.shape[2])
    maps = []
    for start in range(0, places, rows):
        part = slice(start, start + rows)
        mean: Any = 0
        for head in range(heads):
            products = query[:, head, part].float() @ key[:, head].float().mT * factor
            if mask is not None:
                own = mask[:, head, part]
                products = products.masked_fill(~own, -math.inf) if own.dtype == torch.bool else products + own.float()
            mean = mean + products.softmax(-1)[..., text] / heads
        maps.append(mean)
    attention = torch.cat(maps, 1)  # [B, places, N]
    mass = attention.mean(1)
    shares = attention / attention.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    spread = torch.special.entr(shares).sum(1) / math.log(max(places, 2))
    return torch.cat([mass, spread], 1)


def tap_attention(module: torch.nn.Module, name: str, take: Callable[[torch.Tensor], None]) -> Callable[[], None]:
    """Pass `attention_statistics` of every call of an attention `module`, called `name`, to `take`; returns the undo.

    What reaches `scaled_dot_product_attention` is read, so projections, norms, rotations and masks are the module's
    own, and its result is untouched.

    Raises (in the run):
        NbenchError: the module does not compute one attention by that function, or not to the tokens of a prompt.
    """
    original, added = module.forward, list[torch.Tensor]()
    signature = inspect.signature(original)

    @functools.wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Any:
        added.clear()
        with _Attentions() as attentions:
            result = original(*args, **kwargs)
        arguments = signature.bind_partial(*args, **kwargs).arguments
        context = arguments.get("encoder_hidden_states")
        if len(attentions.calls) != 1 or not isinstance(context, torch.Tensor):
            raise _unfit(name, f"computes {len(attentions.calls)} attentions by scaled_dot_product_attention")
        take(_of_call(attentions.calls[0], context.shape[1], added, name))
        return result

    restore = replace_method(module, "forward", forward)
    values = getattr(module, "add_v_proj", None)
    handle = values.register_forward_hook(lambda _, given, output: added.append(output)) if values is not None else None

    def undo() -> None:
        restore()
        if handle is not None:
            handle.remove()

    return undo


class _Attentions(TorchFunctionMode):
    """While entered, lists the arguments of `scaled_dot_product_attention`."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Mapping[str, Any]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.scaled_dot_product_attention:
            self.calls.append(dict(zip(_PARAMETERS, args, strict=False)) | (kwargs or {}))
        return func(*args, **(kwargs or {}))


def _of_call(call: Mapping[str, Any], tokens: int, added: list[torch.Tensor], name: str) -> torch.Tensor:
    query, key = call["query"].detach(), call["key"].detach()
    if query.shape[1] != key.shape[1] or call.get("is_causal"):
        raise _unfit(name, "shares keys among heads, or is causal")
    places, text = slice(None), slice(None)
    if added:  # image and text in one sequence, in either order: the values, never rotated or normed, tell which
        value = call["value"].transpose(1, 2).flatten(2)
        tokens = added[-1].shape[1]
        if torch.equal(value[:, :tokens], added[-1].to(value.dtype)):
            places, text = slice(tokens, None), slice(tokens)
        elif torch.equal(value[:, -tokens:], added[-1].to(value.dtype)):
            places, text = slice(-tokens), slice(key.shape[2] - tokens, None)
        else:
            raise _unfit(name, "mixes image and text in an order that is not understood")
    elif key.shape[2] != tokens:
        raise _unfit(name, "has other keys than the tokens of the prompt")
    mask = call.get("attn_mask")
    if mask is not None and mask.shape[-2] != 1:
        mask = mask[..., places, :]
    return attention_statistics(query[:, :, places], key, mask, call.get("scale"), text)


def _unfit(name: str, reason: str) -> NbenchError:
    return NbenchError(f"layer {name} {reason}: its attention to the prompt cannot be recorded; choose another layer")
