"""Decode latents to RGB: by a linear map, a tiny decoder (TAESD), or the pipeline's VAE."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..errors import NbenchError, reason_of
from ..pipelines.vae import decode
from ..pipelines.whole_parts import whole_parts
from ..shards.schema import LatentSpace, PreviewMap
from .placement import CPU, Placement
from .protocols import Reads, input_kind
from .weights import folder_fingerprint, model_folder

Decoder = Callable[[torch.Tensor], torch.Tensor]
"""Latents [B, C, h, w] to RGB float32 [B, 3, H, W] in 0..1."""

TINY = {
    "sd15": "madebyollin/taesd",
    "sdxl": "madebyollin/taesdxl",
    "sd35": "madebyollin/taesd3",
    "flux": "madebyollin/taef1",
}
"""Tiny decoders by pipeline alias."""


def preview(latents: torch.Tensor, preview_map: PreviewMap) -> torch.Tensor:
    """Latents [B, C, H, W] to RGB float32 [B, 3, H, W] in 0..1, by the linear map."""
    weight = torch.tensor(preview_map.weight, dtype=torch.float32, device=latents.device)
    bias = torch.tensor(preview_map.bias, dtype=torch.float32, device=latents.device)
    rgb = torch.einsum("rc,bchw->brhw", weight, latents.float()) + bias[:, None, None]
    return rgb.clamp(0, 1)


def input_decoder(reads: Reads, previews: Callable[[], Decoder], vae: Callable[[], Decoder]) -> Decoder | None:
    """The decoder that an input kind needs, loaded on demand; None if the input is not decoded."""
    kind = input_kind(reads)
    if kind in ("preview", "x0_preview"):
        return previews()
    return vae() if kind == "x0_image" else None


def preview_decoder(space: LatentSpace, how: str = "linear", placement: Placement = CPU) -> Decoder:
    """The decoder of previews for a latent space.

    Args:
        how: linear, tiny (an AutoencoderTiny for the latent space of the bench's pipeline), or tiny:FOLDER-OR-HUB-ID.

    Raises:
        NbenchError: there is no preview map, no known tiny decoder, or `how` is something else.
    """
    if how == "linear":
        preview_map = space.preview
        if preview_map is None:
            raise NbenchError("this bench has no preview map: build it with one (--fresh), or use --preview tiny")
        return partial(preview, preview_map=preview_map)
    from diffusers import AutoencoderTiny

    folder = _tiny_folder(space, how)
    vae = AutoencoderTiny.from_pretrained(folder).to(placement.device).eval()
    _check_channels(vae, space, how)
    return partial(decode, vae)


def decoder_fingerprint(space: LatentSpace, how: str, vae: str | None) -> str:
    """The fingerprint of decoders that are not the bench's own; "" if all are."""
    parts = [] if how == "linear" else [folder_fingerprint(_tiny_folder(space, how), "tiny")]
    if vae is not None:
        folder = model_or_pipeline(vae)
        parts.append(folder_fingerprint(folder / "vae" if (folder / "vae").is_dir() else folder, "vae"))
    return "-".join(parts)


def _tiny_folder(space: LatentSpace, how: str) -> Path:
    kind, _, source = how.partition(":")
    if kind != "tiny":
        raise NbenchError(f"unknown preview {how}: there are linear, tiny, and tiny:FOLDER-OR-HUB-ID")
    source = source or TINY.get(space.pipeline, "")
    if not source:
        raise NbenchError(
            f"no tiny decoder is known for pipeline {space.pipeline} (there is one for {', '.join(TINY)}): "
            "name one with --preview tiny:FOLDER-OR-HUB-ID"
        )
    return model_folder(source)


def vae_decoder(space: LatentSpace, source: str | Path, placement: Placement = CPU) -> Decoder:
    """The VAE of a pipeline folder, or one with its own folder or Hub id, in float32.

    Raises:
        NbenchError: there is none, or it does not fit the latent space.
    """
    import diffusers

    folder = model_or_pipeline(source)
    try:
        with whole_parts():
            if (folder / "model_index.json").is_file():
                name = json.loads((folder / "model_index.json").read_text())["vae"][1]
                vae = getattr(diffusers, name).from_pretrained(folder, subfolder="vae")
            else:
                name = json.loads((folder / "config.json").read_text())["_class_name"]
                vae = getattr(diffusers, name).from_pretrained(folder)
    except Exception as error:  # diffusers raises a dozen unrelated types
        raise NbenchError(
            f"no VAE at {source} ({reason_of(error)}): give the folder of a pipeline or of its VAE"
        ) from None
    _check_channels(vae, space, source)
    return partial(decode, vae.to(placement.device).eval())


def model_or_pipeline(source: str | Path) -> Path:
    """The folder of a local pipeline, else of a model (folder or Hub id).

    Raises:
        NbenchError: neither.
    """
    folder = Path(source)
    return folder if (folder / "model_index.json").is_file() else model_folder(source)


def _check_channels(vae: Any, space: LatentSpace, source: str | Path) -> None:
    channels = vae.config.get("latent_channels", vae.config.get("z_dim"))
    if channels is not None and channels != space.latent_shape[0]:
        raise NbenchError(f"{source} decodes latents with {channels} channels, this bench has {space.latent_shape[0]}")
