"""What a pipeline's configuration tells without its weights: latents, image size, rows per denoiser call."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...errors import NbenchError, reason_of
from ...pipelines.aliases import ALIASES, PipelineEntry
from ...pipelines.find import resolve_pipeline
from ...pipelines.options import PipelineOptions, pipeline_class
from ...pipelines.sizes import check_sides, denoiser_config, read_json, vae_scale

_CONFIGS = ["model_index.json", "nbench.json", "*/config.json", "scheduler/*.json"]
_USUAL_LATENT = 128
"""Latent height and width of the pipelines whose denoisers state none: FLUX, Qwen-Image, Z-Image."""
_EMBEDDED = {"flux"}
"""Aliases whose denoisers take the guidance scale as an input: one row per candidate."""
_ABOVE_ZERO = {"z-image", "ZImagePipeline", "Krea2Pipeline"}
"""Aliases and classes that guide at any guidance above 0, where others do above 1."""


@dataclass(frozen=True)
class Setup:
    """`latent_shape` [C, H, W]; `image_size` (height, width); `rows_a_step`: 2 where guidance doubles them."""

    latent_shape: tuple[int, int, int]
    image_size: tuple[int, int]
    rows_a_step: int
    batch_size: int
    has_preview: bool


def read_setup(name: str, options: PipelineOptions) -> Setup:
    """What the pipeline `name` makes with `options`; only the configuration of a Hub id is fetched, and nothing for an
    alias.

    Raises:
        NbenchError: no such pipeline, or configurations without a size.
    """
    alias = ALIASES.get(name)
    if alias and alias.latent_shape and alias.image_size and not Path(alias.source).is_dir():
        entry = _with_options(alias, options)
        least = 0 if alias.name in _ABOVE_ZERO else 1
        check_sides(alias.name, entry.call_kwargs, alias.side_multiple)
        return _setup(entry, alias.latent_shape, alias.image_size, alias.name in _EMBEDDED, {}, least)
    folder = Path(alias.source if alias else name)
    source = str(folder) if folder.exists() or "/" not in name else _configs(name, options.revision)
    entry = resolve_pipeline(name if alias else source, options)
    return _from_configs(entry, Path(entry.source))


def _with_options(entry: PipelineEntry, options: PipelineOptions) -> PipelineEntry:
    """`entry` with the options that change costs."""
    guidance = entry.guidance if options.guidance is None else options.guidance
    return replace(entry, guidance=guidance, call_kwargs={**entry.call_kwargs, **options.call_kwargs})


def _configs(hub_id: str, revision: str | None) -> str:
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(hub_id, revision=revision, allow_patterns=_CONFIGS)
    except Exception as error:  # the Hub's client raises a dozen unrelated types
        raise NbenchError(
            f"no pipeline {hub_id!r}: no such folder, and fetching it from the Hub failed ({reason_of(error)})"
        ) from None


def _from_configs(entry: PipelineEntry, folder: Path) -> Setup:
    index, vae = read_json(folder / "model_index.json"), read_json(folder / "vae" / "config.json")
    denoiser = denoiser_config(folder)
    channels, factor = vae.get("latent_channels") or vae.get("z_dim"), vae_scale(vae)
    if channels is None or factor is None:
        raise NbenchError(
            f"the autoencoder of {entry.name} ({vae.get('_class_name')}) states no latent channels: plan with an alias"
        )
    size = denoiser.get("sample_size") or _USUAL_LATENT
    height, width = (size, size) if isinstance(size, int) else size
    parameters = inspect.signature(kind.__call__).parameters if (kind := pipeline_class(index)) else {}
    embedded = bool(denoiser.get("guidance_embeds") or denoiser.get("time_cond_proj_dim"))
    least = 0 if index.get("_class_name") in _ABOVE_ZERO else 1
    return _setup(entry, (channels, height, width), (height * factor, width * factor), embedded, parameters, least)


def _setup(
    entry: PipelineEntry,
    latent: tuple[int, int, int],
    image: tuple[int, int],
    embedded: bool,
    parameters: Any,
    least: int,
) -> Setup:
    """The sizes that a call makes, and whether guidance (above `least`) doubles its rows."""
    factor, called = image[0] // latent[1], entry.call_kwargs
    height, width = called.get("height", image[0]), called.get("width", image[1])
    return Setup(
        latent_shape=(latent[0], height // factor, width // factor),
        image_size=(height, width),
        rows_a_step=1 + _doubled(entry, embedded, parameters, least),
        batch_size=entry.batch_size,
        has_preview=entry.preview is not None,
    )


def _doubled(entry: PipelineEntry, embedded: bool, parameters: Any, least: int) -> bool:
    """Whether the pipeline, called as by `as_called`, also computes an unconditional prediction."""
    called = entry.call_kwargs
    true_scale = called.get("true_cfg_scale")
    if embedded:  # a true scale counts only beside a negative prompt
        return (true_scale or 1) > 1 and "negative_prompt" in called
    if true_scale is not None:
        return bool(true_scale > 1) and "negative_prompt" in called
    if entry.guidance is not None:
        return entry.guidance > least
    if "true_cfg_scale" in parameters:
        return parameters["true_cfg_scale"].default > 1 and "negative_prompt" in called
    scale = parameters.get("guidance_scale")
    return scale is None or scale.default is None or scale.default > least
