"""The latent space of a pipeline at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..errors import NbenchError
from ..shards.schema import LatentSpace, PreviewMap
from .aliases import ALIASES
from .calling import RunEnded, call_pipeline
from .find import folder_entry
from .latent_layout import LatentLayout, check_prepares
from .options import as_called
from .replaced_method import replace_method


def preview_of(pipe: Any) -> PreviewMap | None:
    """The preview map that a pipeline's folder states (nbench.json), or that is published for the Hub id it is of."""
    source = getattr(pipe, "name_or_path", None)
    if not source:
        return None
    published = (entry.preview for entry in ALIASES.values() if entry.source == str(source))
    return folder_entry(Path(source)).preview or next(published, None)


def space_of(pipe: Any, preview: PreviewMap | None, arguments: dict[str, Any]) -> LatentSpace:
    """The latent space of `pipe` called with `arguments`.

    The pipeline is called and ended when it has drawn its noise, so the denoiser never runs.
    """
    return space_from(pipe, _first_noise(pipe, arguments), preview)


def space_from(pipe: Any, latents: torch.Tensor, preview: PreviewMap | None) -> LatentSpace:
    """The latent space of `latents` [B, C, h, w] of `pipe`."""
    channels, height, width = latents.shape[1:]
    name = str(getattr(pipe, "name_or_path", None) or type(pipe).__name__)
    return LatentSpace((channels, height, width), preview, name)


class _Drawn(RunEnded):
    """Ends a call of a pipeline that has drawn its noise, which it carries."""

    def __init__(self, noise: torch.Tensor) -> None:
        super().__init__()
        self.noise = noise


def _first_noise(pipe: Any, arguments: dict[str, Any]) -> torch.Tensor:
    check_prepares(pipe)
    prepare = pipe.prepare_latents

    def seen(*args: Any, **kwargs: Any) -> None:
        made = prepare(*args, **kwargs)
        raise _Drawn(made[0] if isinstance(made, tuple) else made)

    restore = replace_method(pipe, "prepare_latents", seen)
    try:
        with LatentLayout(pipe) as layout:
            try:
                call_pipeline(pipe, prompt=[""], **as_called(pipe, arguments, 1))
            except _Drawn as drawn:
                return layout.chw(drawn.noise)
    finally:
        restore()
    raise NbenchError(f"{type(pipe).__name__} prepares no latents: use a pipeline that denoises latents")
