"""What sizes of images a pipeline can make, as its configuration files tell."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import NbenchError
from .aliases import ALIASES, PipelineEntry
from .denoisers import DENOISERS


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object of a configuration file; empty where there is no such file."""
    found: dict[str, Any] = json.loads(path.read_bytes()) if path.is_file() else {}
    return found


def denoiser_config(folder: Path) -> dict[str, Any]:
    """The configuration of the denoiser of a pipeline's folder."""
    return next((found for part in DENOISERS if (found := read_json(folder / part / "config.json"))), {})


def vae_scale(config: Mapping[str, Any]) -> int | None:
    """Pixels along a side of an image for one of its latent, by an autoencoder's configuration; None: it says not."""
    if "temperal_downsample" in config:  # diffusers' own spelling
        return int(2 ** len(config["temperal_downsample"]))
    blocks = config.get("encoder_block_out_channels") or config.get("block_out_channels")
    return int(2 ** (len(blocks) - 1)) if blocks else None


def side_multiple(folder: Path, kind: Any, called: Mapping[str, Any]) -> int:
    """What heights and widths must be multiples of: the autoencoder's scale, times the denoiser's patch.

    `kind` is the pipeline's class, `called` what it is called with: where it takes sizes from a table of its own and
    scales the image afterwards, the patch does not count.
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
    """Refuse a height or width that the pipeline called `name` cannot make.

    Raises:
        NbenchError: so, with the nearest one that it can.
    """
    for option in ("height", "width"):
        side = called.get(option)
        if isinstance(side, int) and side % multiple:
            near = max(1, round(side / multiple)) * multiple
            raise NbenchError(f"{option} {side} is no multiple of {multiple}, as {name} needs: give --{option} {near}")


def image_size(entry: PipelineEntry) -> tuple[int, int]:
    """Height and width of the images that the pipeline makes: those asked for, or its own.

    Raises:
        NbenchError: its files do not tell.
    """
    known, folder = ALIASES.get(entry.name), Path(entry.source)
    usual = known.image_size if known is not None else None
    if not (folder / "vae" / "config.json").is_file():
        raise NbenchError(f"pipeline {entry.name} has no autoencoder, which the forward process needs: choose another")
    if usual is None:
        scale, places = vae_scale(read_json(folder / "vae" / "config.json")), denoiser_config(folder).get("sample_size")
        usual = (places * scale, places * scale) if scale and isinstance(places, int) else None
    height, width = (entry.call_kwargs.get(name, usual and usual[i]) for i, name in enumerate(("height", "width")))
    if height is None or width is None:
        raise NbenchError(f"pipeline {entry.name} does not say how large its images are: give --height and --width")
    return (height, width)
