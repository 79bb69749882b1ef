"""The forward process: noisy latents of given images, by the autoencoder and the scheduler alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from ..errors import NbenchError
from ..pipelines.aliases import PipelineEntry
from ..pipelines.candidate_noise import initial_noise
from ..pipelines.generate import Trajectories
from ..pipelines.noise_levels import noise_scales, run_positions, set_timesteps
from ..pipelines.options import pipeline_class
from ..pipelines.quiet import quieten_diffusers
from ..pipelines.schedulers import swapped
from ..pipelines.sizes import image_size, read_json
from ..pipelines.vae import encode
from ..shards.schema import PositionInfo
from .images.source import ChosenImages, load_image

PROCESS = "forward"
PARTS = ("model_index.json", "*/config.json", "vae/*.safetensors", "scheduler/*")
"""What is fetched of a pipeline on the Hub: no denoiser, no text encoder."""


@dataclass(frozen=True)
class ForwardProcess:
    """An autoencoder and a scheduler at work on images; `size` is their height and width.

    Position k of a run of T steps is alpha_k x0 + sigma_k eps: x0 is the encoded image, as pipelines scale latents, and
    eps the noise of the candidate's seed, the same at all positions. Position T is x0 itself.
    """

    vae: Any
    images: ChosenImages
    size: tuple[int, int]
    positions: list[PositionInfo]
    scales: list[tuple[float, float]]

    def make(self, rows: Sequence[int], seeds: Sequence[int], positions: Collection[int]) -> Trajectories:
        """The candidates of rows; an image that cannot be read is black, with its reason among the errors."""
        pixels, errors = np.zeros((len(rows), *self.size, 3), np.uint8), [""] * len(rows)
        for i, row in enumerate(rows):
            try:
                pixels[i] = load_image(self.images.encoded(row), self.size)
            except ValueError as error:
                errors[i] = str(error)
        x0 = encode(self.vae, pixels)
        noise = torch.stack([initial_noise(seed, tuple(x0.shape[1:])) for seed in seeds])
        latents = {k: self.scales[k][0] * x0 + self.scales[k][1] * noise for k in positions}
        return Trajectories(latents, pixels, self.positions, tuple(errors))


def open_forward(
    entry: PipelineEntry, images: ChosenImages, steps: int, dtype: str, device: str | None = None
) -> ForwardProcess:
    """The forward process of a resolved pipeline: its autoencoder on `device` and the noise levels of `steps` steps.

    Raises:
        NbenchError: the size of its images is not known, or diffusers cannot open its parts.
    """
    quieten_diffusers()
    folder = Path(entry.source)
    index = read_json(folder / "model_index.json")
    try:
        vae = _part(index, "vae").from_pretrained(folder / "vae", torch_dtype=getattr(torch, dtype))
        scheduler = _part(index, "scheduler").from_pretrained(folder / "scheduler")
    except NbenchError:
        raise
    except Exception as error:  # diffusers and what it loads with raise a dozen unrelated types
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise NbenchError(f"diffusers cannot open vae and scheduler of {entry.name} ({reason})") from error
    if vae.config.get("force_upcast"):
        vae = vae.float()  # SDXL's overflows in float16
    vae = vae.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval().requires_grad_(False)
    if entry.scheduler:
        scheduler = swapped(SimpleNamespace(scheduler=scheduler), entry.scheduler)
    size = image_size(entry)
    shape = encode(vae, np.zeros((1, *size, 3), np.uint8)).shape
    set_timesteps(scheduler, index["_class_name"], steps, (shape[2], shape[3]))
    positions = run_positions(scheduler)
    return ForwardProcess(vae, images, size, positions, [*noise_scales(scheduler), (1.0, 0.0)])


def _part(index: dict[str, Any], name: str) -> Any:
    """The class of a pipeline's part; only diffusers' own are run."""
    import diffusers

    library, kind = (index.get(name) or (None, None))[:2]
    found = getattr(diffusers, kind, None) if library == "diffusers" and isinstance(kind, str) else None
    if found is None or pipeline_class(index) is None:
        raise NbenchError(f"the pipeline has no {name} of diffusers, which the forward process needs: choose another")
    return found
