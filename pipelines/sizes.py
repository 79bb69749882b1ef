"""Image sizes that a pipeline can generate, from its configuration files."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import NbenchError
from .aliases import ALIASES, PipelineEntry

DENOISERS = ("transformer", "unet")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object of a configuration file; empty if there is no file."""
    content: dict[str, Any] = json.loads(path.read_bytes()) if path.is_file() else {}
    return content


def denoiser_config(folder: Path) -> dict[str, Any]:
    """The configuration of the denoiser of a pipeline's folder."""
    return next((config for part in DENOISERS if (config := read_json(folder / part / "config.json"))), {})


def vae_scale(config: Mapping[str, Any]) -> int | None:
    """Image pixels per latent pixel along a side, from a VAE's configuration; None if it does not say."""
    if "temperal_downsample" in config:  # diffusers' own spelling
        return int(2 ** len(config["temperal_downsample"]))
    blocks = config.get("encoder_block_out_channels") or config.get("block_out_channels")
    return int(2 ** (len(blocks) - 1)) if blocks else None


def side_multiple(folder: Path, kind: Any, called: Mapping[str, Any]) -> int:
    """Heights and widths must be multiples of this: the VAE's scale times the denoiser's patch size.

    `kind` is the pipeline's class, `called` its call arguments. If it picks a size from its own table and rescales the
    image afterwards, the patch does not matter.
    """
    scale = vae_scale(read_json(folder / "vae" / "config.json")) or 1
    taken = inspect.signature(kind.__call__).parameters if kind else {}
    if "use_resolution_binning" in taken and called.get("use_resolution_binning", True):
        return scale
    config = denoiser_config(folder)
    patch = config.get("patch_size") or config.get("all_patch_size") or 1
    patch = patch[-1] if isinstance(patch, list) else patch
    return scale * int(2 if hasattr(kind, "_pack_latents") else patch)


def check_sides(name: str, called: Mapping[str, Any], multiple: int) -> None:
    """Refuse a height or width that the pipeline `name` cannot generate.

    Raises:
        NbenchError: it cannot; the message has the nearest possible value.
    """
    for option in ("height", "width"):
        side = called.get(option)
        if isinstance(side, int) and side % multiple:
            near = max(1, round(side / multiple)) * multiple
            raise NbenchError(
                f"{option} {side} is not a multiple of {multiple}, which {name} needs: give --{option} {near}"
            )


def image_size(entry: PipelineEntry) -> tuple[int, int]:
    """Height and width of the pipeline's images: the configured ones, or its default.

    Raises:
        NbenchError: its files do not say.
    """
    alias, folder = ALIASES.get(entry.name), Path(entry.source)
    default = alias.image_size if alias is not None else None
    if not (folder / "vae" / "config.json").is_file():
        raise NbenchError(f"pipeline {entry.name} has no autoencoder, which the forward process needs: choose another")
    if default is None:
        scale, sample = vae_scale(read_json(folder / "vae" / "config.json")), denoiser_config(folder).get("sample_size")
        default = (sample * scale, sample * scale) if scale and isinstance(sample, int) else None
    height, width = (entry.call_kwargs.get(name, default and default[i]) for i, name in enumerate(("height", "width")))
    if height is None or width is None:
        raise NbenchError(f"pipeline {entry.name} does not say how large its images are: give --height and --width")
    return (height, width)
