"""Which prompts may share a batch, so that none of their candidates depends on its neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch

from ..errors import NbenchError, failure_of
from .calling import RunEnded
from .options import as_called
from .replaced_method import replace_method

Padding = Literal["none", "masked", "unmasked"]
_SHORT, _LONG = "red", " ".join(["red"] * 64)
_PADDING: WeakKeyDictionary[Any, dict[str, Padding]] = WeakKeyDictionary()


def prompt_groups(
    pipe: Any, prompts: Sequence[str], arguments: Mapping[str, Any], pooled: bool = False
) -> list[list[int]]:
    """The numbers of `prompts` that may be handed to `pipe` in one call, group by group: all, or those equally long.

    Some pipelines pad the prompts of a call to the longest of them. Without an attention mask the padding changes what
    is made of the shorter ones; with one it still counts where the outputs of a layer are averaged (`pooled`).

    Raises:
        NbenchError: a tokenizer does not take the prompts.
    """
    lengths = _token_counts(pipe, prompts) if len(set(prompts)) > 1 else []
    if len(set(lengths)) > 1:
        padding = _padding(pipe, arguments)
        if padding == "unmasked" or (padding == "masked" and pooled):
            return [[i for i, length in enumerate(lengths) if length == one] for one in dict.fromkeys(lengths)]
    return [list(range(len(prompts)))]


def _token_counts(pipe: Any, prompts: Sequence[str]) -> list[Any]:
    """For each prompt how many tokens each tokenizer makes of it; the prompt itself where there is no tokenizer."""
    parts = [
        part for name, part in getattr(pipe, "components", {}).items() if "tokenizer" in name or "processor" in name
    ]
    tokenizers = [part for each in parts if callable(part := getattr(each, "tokenizer", each)) and _tokenizes(part)]
    if not tokenizers:
        return list(prompts)
    try:
        tokens = [one(list(prompts), truncation=False, padding=False, verbose=False)["input_ids"] for one in tokenizers]
    except Exception as error:  # tokenizers raise whatever they like
        raise NbenchError(
            f"a tokenizer of {type(pipe).__name__} does not take the prompts ({failure_of(error)}): check its files"
        ) from error
    return list(zip(*([len(of_one) for of_one in each] for each in tokens), strict=True))


def _tokenizes(part: Any) -> bool:
    return hasattr(part, "model_max_length")


def _padding(pipe: Any, arguments: Mapping[str, Any]) -> Padding:
    known, key = _PADDING.setdefault(pipe, {}), repr(sorted(arguments.items()))
    if key not in known:
        alone, beside = (_encoded(pipe, prompts, arguments) for prompts in ([_SHORT], [_SHORT, _LONG]))
        padded = [one.shape[1:] for one in alone] != [one.shape[1:] for one in beside]
        masked = any(one.ndim == 2 and not one.is_floating_point() for one in beside)
        known[key] = "none" if not padded else "masked" if masked else "unmasked"
    return known[key]


class _Encoded(RunEnded):
    """Ends a call of a pipeline that has encoded its prompts."""

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        super().__init__()
        self.tensors = tensors


def _encoded(pipe: Any, prompts: list[str], arguments: Mapping[str, Any]) -> list[torch.Tensor]:
    """What `encode_prompt` of a pipeline gives for `prompts`; nothing where there is no such method."""
    encode = getattr(pipe, "encode_prompt", None)
    if encode is None:
        return []

    def end(*args: Any, **kwargs: Any) -> None:
        raise _Encoded(list(_tensors(encode(*args, **kwargs))))

    restore = replace_method(pipe, "encode_prompt", end)
    try:
        pipe(prompt=prompts, output_type="latent", **as_called(pipe, dict(arguments), len(prompts)))
    except _Encoded as encoded:
        return encoded.tensors
    except Exception:  # the run itself will say what is wrong with it
        return []
    finally:
        restore()
    return []


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, tuple):  # a list holds one tensor per prompt, each as long as it is
        for part in value:
            yield from _tensors(part)
