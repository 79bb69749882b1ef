"""Latent layouts of pipelines: packed into tokens, with a frame axis, or plain [B, C, H, W]."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ..errors import NbenchError
from .replaced_method import replace_method


class LatentLayout:
    """While entered, observes the size that `pipe` is called for, and converts its latents to [B, C, H, W].

    Every diffusers pipeline takes the size in `prepare_latents(..., height, width, ...)`. `drawn` is called with the
    result, the noise [B, C, H, W], before the denoiser runs.
    """

    def __init__(self, pipe: Any, drawn: Callable[[torch.Tensor], None] | None = None) -> None:
        self._pipe, self._drawn = pipe, drawn
        self._size: tuple[int, int] | None = None
        self._watching = contextlib.ExitStack()

    def __enter__(self) -> LatentLayout:
        self._watching.enter_context(_preparing(self._pipe, self._read_size, self._report))
        return self

    def __exit__(self, *exception: object) -> None:
        self._watching.close()

    def chw(self, sample: torch.Tensor) -> torch.Tensor:
        """Latents as the scheduler gets them, converted to [B, C, H, W].

        Raises:
            NbenchError: several frames, or tokens that do not form an image.
        """
        if sample.ndim == 3:
            return unpack(sample, self._size)
        if sample.ndim == 5:
            frame = next((axis for axis in (2, 1) if sample.shape[axis] == 1), None)
            if frame is None:
                raise NbenchError(f"latents {tuple(sample.shape)} have several frames: use an image pipeline")
            return sample.squeeze(frame)
        return sample

    def _read_size(self, arguments: dict[str, Any]) -> None:
        height, width = arguments.get("height"), arguments.get("width")
        patch = 2 * getattr(self._pipe, "vae_scale_factor", 8)
        if height and width:
            self._size = (2 * (int(height) // patch), 2 * (int(width) // patch))

    def _report(self, prepared: Any, _: None) -> Any:
        if self._drawn is not None:
            self._drawn(self.chw(prepared[0] if isinstance(prepared, tuple) else prepared))
        return prepared


def check_prepares(pipe: Any) -> None:
    """Refuse to watch a pipeline that leaves its noise to others, as those of several stages do.

    Raises:
        NbenchError: it has no `prepare_latents`.
    """
    if not hasattr(pipe, "prepare_latents"):
        raise NbenchError(
            f"{type(pipe).__name__} runs other pipelines and draws no noise of its own: it can be recorded "
            "(nbench build), but not watched or pruned; use the pipeline of its last stage"
        )


@contextlib.contextmanager
def float32_noise(pipe: Any) -> Iterator[None]:
    """While entered, `pipe` draws its initial noise in float32 and then casts it to its dtype.

    A seed then gives the same noise in every dtype, in the pipeline's own shape and order.
    """

    def widen(arguments: dict[str, Any]) -> torch.dtype | None:
        dtype = arguments.get("dtype")
        if isinstance(dtype, torch.dtype) and arguments.get("latents") is None:
            arguments["dtype"] = torch.float32
            return dtype
        return None

    def narrow(prepared: Any, dtype: torch.dtype | None) -> Any:
        if dtype is None:
            return prepared
        if isinstance(prepared, tuple):  # FLUX returns position ids with the latents
            return tuple(narrow(each, dtype) for each in prepared)
        floating = isinstance(prepared, torch.Tensor) and prepared.is_floating_point()
        return prepared.to(dtype) if floating else prepared

    with _preparing(pipe, widen, narrow):
        yield


@contextlib.contextmanager
def _preparing(
    pipe: Any, before: Callable[[dict[str, Any]], Any], after: Callable[[Any, Any], Any] = lambda prepared, _: prepared
) -> Iterator[None]:
    """While entered, `prepare_latents` of `pipe` passes its arguments to `before`, which may change them, and its
    result to `after`.
    """
    original = getattr(pipe, "prepare_latents", None)
    if original is None:
        yield
        return
    signature = inspect.signature(original)

    @functools.wraps(original)
    def prepare(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        state = before(bound.arguments)
        return after(original(*bound.args, **bound.kwargs), state)

    restore = replace_method(pipe, "prepare_latents", prepare)
    try:
        yield
    finally:
        restore()


def unpack(tokens: torch.Tensor, size: tuple[int, int] | None = None) -> torch.Tensor:
    """Unpack tokens [B, H/2 * W/2, 4C], one per 2x2 patch as in FLUX-like pipelines, to [B, C, H, W].

    `size` is (H, W); None assumes a square.

    Raises:
        NbenchError: the tokens do not form such a latent.
    """
    batch, count, width = tokens.shape
    rows, columns = (size[0] // 2, size[1] // 2) if size else (math.isqrt(count),) * 2
    if rows * columns != count or width % 4:
        shape = f"{2 * rows}x{2 * columns}" if size else "square"
        raise NbenchError(
            f"packed latents of {count} tokens are not {shape}: nbench does not support this pipeline's packing"
        )
    patches = tokens.reshape(batch, rows, columns, width // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(batch, width // 4, rows * 2, columns * 2)
