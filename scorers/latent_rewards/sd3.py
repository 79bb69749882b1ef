"""SD3's pipeline as a feature extractor: its text encoders, and the states after each of the first blocks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...errors import NbenchError, reason_of
from ...pipelines.aliases import ALIASES
from ...pipelines.quiet import quieten_diffusers
from ...pipelines.whole_parts import whole_parts
from ..placement import Placement
from ..published import files_fingerprint
from ..weights import read_config

_UNUSED = ("vae", "scheduler")


def sd3_folder(source: str) -> Path:
    """The folder of an SD3 pipeline: an alias, a folder, or a Hub id, which is downloaded.

    Raises:
        NbenchError: there is none, or it is of another class.
    """
    source = ALIASES[source].source if source in ALIASES else source
    folder = Path(source).expanduser()
    if not (folder / "model_index.json").is_file():
        quieten_diffusers()
        from diffusers import DiffusionPipeline

        try:
            folder = Path(DiffusionPipeline.download(source))
        except Exception as error:  # the Hub's client raises a dozen unrelated types
            raise NbenchError(
                f"no pipeline {source}: not a folder, and not to be downloaded from the Hub ({reason_of(error)})"
            ) from None
    kind = read_config(folder, "model_index.json").get("_class_name")
    if kind != "StableDiffusion3Pipeline":
        raise NbenchError(f"{source} is a {kind}, and a StableDiffusion3Pipeline is needed: name one")
    return folder


def sd3_fingerprint(folder: Path) -> str:
    """Hash of the files of a pipeline that decide features."""
    return files_fingerprint([path for path in sorted(folder.iterdir()) if path.is_dir() and path.name not in _UNUSED])


def open_sd3(folder: Path, placement: Placement) -> Any:
    """The pipeline without its VAE.

    Raises:
        NbenchError: diffusers cannot open it.
    """
    quieten_diffusers()
    from diffusers import StableDiffusion3Pipeline

    try:
        with whole_parts():
            pipe = StableDiffusion3Pipeline.from_pretrained(
                folder, local_files_only=True, vae=None, dtype=placement.torch_dtype
            )
    except Exception as error:  # diffusers raises a dozen unrelated types
        raise NbenchError(f"diffusers cannot open {folder} ({reason_of(error)}): check its files") from None
    return pipe.to(placement.device)


@dataclass(frozen=True)
class States:
    """States before block k, so after k blocks: of the image [B, N, D] and the text [B, L, D]; condition [B, D]."""

    image: list[torch.Tensor]
    text: list[torch.Tensor]
    condition: torch.Tensor


class SD3Blocks:
    """The first `count` blocks of a transformer of SD3; the others are freed.

    Raises:
        NbenchError: it has fewer.
    """

    def __init__(self, transformer: Any, count: int) -> None:
        if len(transformer.transformer_blocks) < count:
            raise NbenchError(f"the backbone has {len(transformer.transformer_blocks)} blocks, and {count} are needed")
        self._transformer = transformer.eval()
        transformer.transformer_blocks = transformer.transformer_blocks[:count]

    def __call__(
        self, latents: torch.Tensor, timestep: float, embeddings: torch.Tensor, pooled: torch.Tensor
    ) -> States:
        """The states of latents [B, C, h, w] at one timestep, with embeddings [B, L, E] and [B, P] of prompts."""
        transformer = self._transformer
        times = torch.full((len(latents),), timestep, device=latents.device)
        condition = transformer.time_text_embed(times, pooled)
        image, text = [transformer.pos_embed(latents)], [transformer.context_embedder(embeddings)]
        for block in transformer.transformer_blocks:
            text_state, image_state = block(hidden_states=image[-1], encoder_hidden_states=text[-1], temb=condition)
            image.append(image_state)
            text.append(text_state)
        return States(image, text, condition)
