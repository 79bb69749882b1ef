"""The forward process: noisy latents of given images, by the autoencoder and the scheduler alone."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from ..errors import NbenchError
from ..pipelines.aliases import ALIASES, PipelineEntry
from ..pipelines.candidate_noise import initial_noise
from ..pipelines.generate import Trajectories
from ..pipelines.options import pipeline_class
from ..pipelines.quiet import quieten_diffusers
from ..pipelines.run_positions import run_positions
from ..pipelines.schedulers import swapped
from ..pipelines.sizes import denoiser_config, read_json, vae_scale
from ..shards.schema import PositionInfo
from .images.source import ChosenImages, load_image

PROCESS = "forward"
PARTS = ("model_index.json", "*/config.json", "vae/*.safetensors", "scheduler/*")
"""What is fetched of a pipeline on the Hub: no denoiser, no text encoder."""
_SPACED = ("FluxPipeline", "QwenImagePipeline", "ZImagePipeline")
"""These space the noise levels of a run evenly themselves, in place of their scheduler."""


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


@torch.inference_mode()
def encode(vae: Any, images: np.ndarray) -> torch.Tensor:
    """Images, uint8 [B, h, w, 3], as latents float32 [B, C, H, W] on the CPU, scaled as denoisers see them.

    Of a distribution its mean is taken: a finished latent carries no noise of the autoencoder's.
    """
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).to(vae.device, vae.dtype) / 127.5 - 1
    # of videos, too: an image is one frame
    frames = "temperal_downsample" in vae.config
    found = vae.encode(pixels[:, :, None] if frames else pixels)
    latents = (found.latent_dist.mode() if hasattr(found, "latent_dist") else found.latent).float().cpu()
    if frames:
        mean, std = (torch.tensor(vae.config[name]).view(1, -1, 1, 1) for name in ("latents_mean", "latents_std"))
        return (latents.squeeze(2) - mean) / std
    return (latents - (vae.config.get("shift_factor") or 0.0)) * vae.config.scaling_factor


def noise_scales(scheduler: Any) -> list[tuple[float, float]]:
    """Of each position of the run that is set, before the last, by how much the image and the noise are multiplied.

    Three kinds: flow matching, 1 - s and s; those that keep the image at its size (k-diffusion: Euler), 1 and sigma;
    those that keep the variance (DDPM), sqrt(a) and sqrt(1 - a), whether they state a, or sigma = sqrt((1 - a) / a).

    Raises:
        NbenchError: the scheduler states neither.
    """
    if hasattr(scheduler, "sigmas"):
        sigmas = [float(sigma) for sigma in scheduler.sigmas[: len(scheduler.timesteps)]]
        if type(scheduler).__name__.startswith("FlowMatch"):
            return [(1 - sigma, sigma) for sigma in sigmas]
        if hasattr(scheduler, "_sigma_to_alpha_sigma_t"):  # the DPM-Solver and UniPC families, flows among them
            pairs = [scheduler._sigma_to_alpha_sigma_t(torch.tensor(sigma)) for sigma in sigmas]
            return [(float(alpha), float(sigma)) for alpha, sigma in pairs]
        return [(1.0, sigma) for sigma in sigmas]
    if hasattr(scheduler, "alphas_cumprod"):
        alphas = [float(scheduler.alphas_cumprod[int(timestep)]) for timestep in scheduler.timesteps]
        return [(alpha**0.5, (1 - alpha) ** 0.5) for alpha in alphas]
    raise NbenchError(f"{type(scheduler).__name__} states no noise levels: use one such as Euler, DDIM or UniPC")


def set_timesteps(scheduler: Any, pipeline: str, steps: int, latent: tuple[int, int]) -> None:
    """Set `scheduler` as a pipeline of that class does for `steps` steps and latents of that height and width."""
    arguments: dict[str, Any] = {"num_inference_steps": steps}
    if pipeline in _SPACED and "sigmas" in inspect.signature(scheduler.set_timesteps).parameters:
        arguments = {"sigmas": np.linspace(1.0, 1 / steps, steps).tolist()}
    config = scheduler.config
    if config.get("use_dynamic_shifting"):
        tokens = (latent[0] // 2) * (latent[1] // 2)
        fewest, most = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        # as FLUX.1 shifts its noise levels with the number of tokens
        arguments["mu"] = low + (high - low) * (tokens - fewest) / (most - fewest)
    try:
        scheduler.set_timesteps(**arguments)
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise NbenchError(f"{type(scheduler).__name__} does not run {steps} steps ({reason}): check --steps") from None


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


def _part(index: dict[str, Any], name: str) -> Any:
    """The class of a pipeline's part; only diffusers' own are run."""
    import diffusers

    library, kind = (index.get(name) or (None, None))[:2]
    found = getattr(diffusers, kind, None) if library == "diffusers" and isinstance(kind, str) else None
    if found is None or pipeline_class(index) is None:
        raise NbenchError(f"the pipeline has no {name} of diffusers, which the forward process needs: choose another")
    return found
