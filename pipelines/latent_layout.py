"""How a pipeline's latents lie in memory: packed into tokens, with a frame axis, or plainly [B, C, H, W]."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ..errors import NbenchError


class LatentLayout:
    """Knows, while it is entered, the size for which `pipe` is called, and brings its latents into [B, C, H, W].

    The size is seen where every pipeline of diffusers takes it: in `prepare_latents(..., height, width, ...)`. `drawn`
    is told what that gives, the noise [B, C, H, W], before the denoiser is called.
    """

    def __init__(self, pipe: Any, drawn: Callable[[torch.Tensor], None] | None = None) -> None:
        self._pipe, self._drawn = pipe, drawn
        self._size: tuple[int, int] | None = None
        self._watching = contextlib.ExitStack()

    def __enter__(self) -> LatentLayout:
        self._watching.enter_context(_preparing(self._pipe, self._see, self._tell))
        return self

    def __exit__(self, *exception: object) -> None:
        self._watching.close()

    def chw(self, sample: torch.Tensor) -> torch.Tensor:
        """What the scheduler is given, as [B, C, H, W].

        Raises:
            NbenchError: several frames, or tokens that are those of no image.
        """
        if sample.ndim == 3:
            return unpack(sample, self._size)
        if sample.ndim == 5:
            frame = next((axis for axis in (2, 1) if sample.shape[axis] == 1), None)
            if frame is None:
                raise NbenchError(f"latents {tuple(sample.shape)} have several frames: record pipelines of images")
            return sample.squeeze(frame)
        return sample

    def _see(self, given: dict[str, Any]) -> None:
        height, width = given.get("height"), given.get("width")
        patch = 2 * getattr(self._pipe, "vae_scale_factor", 8)
        if height and width:
            self._size = (2 * (int(height) // patch), 2 * (int(width) // patch))

    def _tell(self, prepared: Any, _: None) -> Any:
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
    """While entered, `pipe` draws its first noise in float32 and casts it then, whatever type it computes in.

    So a seed gives the same noise in every type, in the shape and order in which the pipeline itself draws it.
    """

    def widen(given: dict[str, Any]) -> torch.dtype | None:
        asked = given.get("dtype")
        if isinstance(asked, torch.dtype) and given.get("latents") is None:
            given["dtype"] = torch.float32
            return asked
        return None

    def narrow(prepared: Any, asked: torch.dtype | None) -> Any:
        if asked is None:
            return prepared
        if isinstance(prepared, tuple):  # FLUX gives ids of places beside the latents
            return tuple(narrow(each, asked) for each in prepared)
        floating = isinstance(prepared, torch.Tensor) and prepared.is_floating_point()
        return prepared.to(asked) if floating else prepared

    with _preparing(pipe, widen, narrow):
        yield


@contextlib.contextmanager
def _preparing(
    pipe: Any, before: Callable[[dict[str, Any]], Any], after: Callable[[Any, Any], Any] = lambda prepared, _: prepared
) -> Iterator[None]:
    """While entered, `prepare_latents` of `pipe` shows its arguments by name, which may be changed, and its result."""
    original = getattr(pipe, "prepare_latents", None)
    if original is None:
        yield
        return
    outer, signature = vars(pipe).get("prepare_latents"), inspect.signature(original)

    @functools.wraps(original)
    def prepare(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        told = before(bound.arguments)
        return after(original(*bound.args, **bound.kwargs), told)

    pipe.prepare_latents = prepare
    try:
        yield
    finally:
        del pipe.prepare_latents  # the instance's attribute: the class's method shows again
        if outer is not None:
            pipe.prepare_latents = outer


def unpack(tokens: torch.Tensor, size: tuple[int, int] | None = None) -> torch.Tensor:
    """[B, H/2 * W/2, 4C], a token for each 2x2 patch as FLUX-like pipelines have them, as [B, C, H, W].

    `size` is (H, W); None takes them as square.

    Raises:
        NbenchError: the tokens are not those of such a latent.
    """
    batch, count, width = tokens.shape
    rows, columns = (size[0] // 2, size[1] // 2) if size else (math.isqrt(count),) * 2
    if rows * columns != count or width % 4:
        shape = f"{2 * rows}x{2 * columns}" if size else "square"
        raise NbenchError(
            f"packed latents of {count} tokens are not {shape}: nbench does not know this pipeline's form"
        )
    patches = tokens.reshape(batch, rows, columns, width // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(batch, width // 4, rows * 2, columns * 2)
