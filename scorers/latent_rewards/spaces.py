"""Whose latents a bench has: told by the configuration of its pipeline's VAE, and refused where another is needed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ...console import say
from ...errors import NbenchError
from ...pipelines.aliases import ALIASES
from ...shards.schema import LatentSpace


@dataclass(frozen=True)
class LatentsOf:
    """A latent space: its name in messages, its channels, and its VAE's `scaling_factor` and `shift_factor`."""

    name: str
    channels: int
    factor: float
    shift: float = 0.0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LatentsOf) and self._numbers == other._numbers

    def __hash__(self) -> int:
        return hash(self._numbers)

    @property
    def _numbers(self) -> tuple[float, ...]:
        return self.channels, self.factor, self.shift


SD15, SDXL = LatentsOf("SD 1.5", 4, 0.18215), LatentsOf("SDXL", 4, 0.13025)
SD3, FLUX = LatentsOf("SD3", 16, 1.5305, 0.0609), LatentsOf("FLUX", 16, 0.3611, 0.1159)
_ALIASES = {
    "sd15": SD15,
    "sdxl": SDXL,
    "pixart": SDXL,
    "sd35": SD3,
    "flux": FLUX,
    "z-image": FLUX,
    "qwen-image": LatentsOf("Qwen-Image", 16, 1.0),
    "sana": LatentsOf("Sana", 32, 0.41407),
}


def latents_of(pipeline: str) -> LatentsOf | None:
    """The latent space of a pipeline (alias, Hub id or folder), or None if its VAE's configuration is not here."""
    alias = next((name for name, entry in ALIASES.items() if pipeline in (name, entry.source)), pipeline)
    if alias in _ALIASES:
        return _ALIASES[alias]
    folder = Path(ALIASES[alias].source if alias in ALIASES else pipeline)
    try:
        config = json.loads((folder / "vae" / "config.json").read_bytes())
        factor, shift = float(config.get("scaling_factor") or 1), float(config.get("shift_factor") or 0)
        found = LatentsOf(Path(pipeline).name, int(config["latent_channels"]), factor, shift)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return next((known for known in _ALIASES.values() if known == found), found)


def check_latents(space: LatentSpace, wanted: LatentsOf, scorer: str) -> None:
    """Refuse a bench or pipeline of another latent space than a scorer's; say so where that cannot be told.

    Raises:
        NbenchError: it has other latents.
    """
    way_out = f"use a bench or pipeline with latents of {wanted.name}"
    if space.latent_shape[0] != wanted.channels:
        raise NbenchError(
            f"{scorer} reads latents of {wanted.name} with {wanted.channels} channels, and these have "
            f"{space.latent_shape[0]}: {way_out}"
        )
    found = latents_of(space.pipeline)
    if found is None:
        say(
            f"{scorer} reads latents of {wanted.name}; whether those of pipeline {space.pipeline} are the same cannot "
            "be told here, since its VAE is not at hand",
            error=True,
        )
    elif found != wanted:
        raise NbenchError(f"{scorer} reads latents of {wanted.name}, and those of {found.name} differ: {way_out}")
