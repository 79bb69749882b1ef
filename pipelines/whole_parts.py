"""Parts of a pipeline whose files lack tensors, or have them in another shape, are refused: they would be random."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

from ..errors import NbenchError
from .replaced_method import replace_method


@contextlib.contextmanager
def whole_parts() -> Iterator[None]:
    """While entered, `from_pretrained` of models of diffusers and transformers refuses files that lack tensors.

    Raises (in the call):
        NbenchError: tensors of the model are missing.
    """
    from diffusers import ModelMixin
    from transformers import PreTrainedModel

    restores = [
        replace_method(kind, "from_pretrained", _checked(vars(kind)["from_pretrained"].__func__))
        for kind in (ModelMixin, PreTrainedModel)
    ]
    try:
        yield
    finally:
        for restore in restores:
            restore()


def _checked(original: Any) -> Callable[..., Any]:
    @functools.wraps(original)
    def from_pretrained(cls: Any, *args: Any, **kwargs: Any) -> Any:
        opened = original(cls, *args, **{**kwargs, "output_loading_info": True, "ignore_mismatched_sizes": True})
        if not isinstance(opened, tuple):  # formats that report nothing
            return opened
        report = opened[1]
        absent = sorted({*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])})
        if absent:
            raise NbenchError(
                f"its {cls.__name__} lacks {len(absent)} tensors, or has them in another shape ({absent[0]}, ...)"
            )
        return opened if kwargs.get("output_loading_info") else opened[0]

    checked: Any = classmethod(from_pretrained)
    return checked
