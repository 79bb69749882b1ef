"""Views of a pipeline for calls that run at a time: the same weights, but a scheduler and hooks of each view's own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch

from ..errors import NbenchError
from .batch_axes import share_axes
from .denoisers import denoisers

Forward = Callable[..., Any]


def pipeline_view(
    pipe: Any, denoise: Callable[[torch.nn.Module], Forward], compute: Callable[[Forward], Forward]
) -> Any:
    """A shallow copy of `pipe` whose state may change without changing `pipe` or other views.

    Args:
        denoise: the `forward` of the view of a denoiser.
        compute: the `forward` of the view of any other module, by that module's call; also `decode` of the VAE.

    Raises:
        NbenchError: the pipeline moves its models between devices.
    """
    if getattr(pipe, "_all_hooks", None):
        raise NbenchError(
            f"{type(pipe).__name__} is offloaded model by model, which calls at a time would undo for each other: "
            "open it without --offload model"
        )
    view = copy.copy(pipe)
    models = denoisers(pipe)
    # written to __dict__, as a pipeline's own __setattr__ would also change its configuration
    for name, part in vars(pipe).items():
        if isinstance(part, torch.nn.Module):
            forward = denoise(part) if any(part is model for model in models) else compute(part)
            vars(view)[name] = _module_view(part, forward)
    if vae := vars(view).get("vae"):
        vae.decode = compute(pipe.vae.decode)
    vars(view)["scheduler"] = copy.deepcopy(pipe.scheduler)
    share_axes(pipe, view)
    return view


def _module_view(module: torch.nn.Module, forward: Forward) -> torch.nn.Module:
    """A module of the same parts, with no hooks yet, that calls `forward`; hooks of `module` run where it is called.

    The view of a compiled module is not compiled.
    """
    module = getattr(module, "_orig_mod", module)
    view = copy.copy(module)
    for name, value in vars(module).items():
        if name.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called")) and isinstance(value, dict):
            vars(view)[name] = type(value)()
    for name in ("_diffusers_hook", "_hf_hook"):
        vars(view).pop(name, None)
    view.forward = forward
    return view
