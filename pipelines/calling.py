"""One call of a stock pipeline: its images, which of them are finite, and what it raises in one line."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..errors import NbenchError, failure_of
from .packages import missing_package
from .replaced_method import replace_method

NOT_FINITE = "image not finite: decode it in float32 (--vae-dtype float32)"


class RunEnded(Exception):
    """Raised inside a pipeline's call to end it on purpose."""


@dataclass(frozen=True)
class Images:
    """What a call made: RGB float [B, h, w, 3] in 0..1, and bool [B], whether all that was decoded is finite."""

    values: np.ndarray
    finite: np.ndarray


def call_pipeline(pipe: Any, **arguments: Any) -> Images:
    """The images of one call of `pipe`.

    Raises:
        NbenchError: the pipeline raises an exception, or its result holds no images.
    """
    name = type(pipe).__name__
    try:
        with _finite_decodes(getattr(pipe, "vae", None)) as decodes:
            result = pipe(output_type="np", **arguments)
    except (NbenchError, RunEnded):
        raise
    except Exception as error:  # pipelines raise whatever their parts do
        if is_out_of_memory(error):
            raise
        if package := missing_package(error):
            raise NbenchError(f"{name} needs the package {package}: pip install {package}") from error
        reason = failure_of(error)
        raise NbenchError(f"{name} does not run ({reason}): check its scheduler and options") from error
    values = _images(result, name)
    finite = np.isfinite(values).all(axis=(1, 2, 3))
    # the image processor clamps what is infinite; a pipeline that decodes in parts of its own shows it by NaN alone
    decoded = torch.cat(decodes).cpu().numpy() if decodes else finite
    return Images(values, finite & decoded if len(decoded) == len(finite) else finite)


def as_pixels(values: np.ndarray) -> np.ndarray:
    """Images in 0..1 as uint8; what is not a number becomes 0."""
    return (np.nan_to_num(values).clip(0, 1) * 255).round().astype(np.uint8)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch might have been computed."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _images(result: Any, name: str) -> np.ndarray:
    """[B, h, w, 3] of a pipeline's output; video pipelines give frames [B, F, h, w, 3] in place of images."""
    values = getattr(result, "images", None)
    if values is None:
        values = getattr(result, "frames", None)
    images: np.ndarray = np.zeros(0) if values is None else np.asarray(values)
    if images.ndim == 5 and images.shape[1] == 1:
        images = images[:, 0]
    if images.ndim != 4:
        raise NbenchError(f"{name} does not return one image per prompt: use a text-to-image pipeline")
    return images


@contextlib.contextmanager
def _finite_decodes(vae: Any) -> Iterator[list[torch.Tensor]]:
    """While entered, lists for each call of the VAE's `decode` which of its rows are finite, bool [rows]."""
    decodes: list[torch.Tensor] = []
    if vae is None:
        yield decodes
        return
    decode = vae.decode

    @functools.wraps(decode)
    def watched(*args: Any, **kwargs: Any) -> Any:
        output = decode(*args, **kwargs)
        pixels = output if isinstance(output, torch.Tensor) else output[0]
        decodes.append(torch.isfinite(pixels).flatten(1).all(1))
        return output

    restore = replace_method(vae, "decode", watched)
    try:
        yield decodes
    finally:
        restore()
