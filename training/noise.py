"""The latents of a row at a position: as recorded, or the finished latent with fresh noise (the forward process)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import NbenchError
from ..pipelines.noise_levels import forward_levels
from ..scorers.dual_encoder import check_level, noise_share, unit_scale
from ..shards.positions import parse_positions
from ..shards.reader import Bench
from .config import FineTuneConfig

if TYPE_CHECKING:
    from .examples import Shard


@dataclass(frozen=True)
class Noise:
    """The positions to train on, and how their latents come about.

    Attributes:
        positions: of the run, ascending.
        stored: the positions that are read: the same, or the last one, to which noise is added.
        level: by position, what models are told; see `noise_share`.
        unit_scale: by position, the factor on latents, as of the scorer; 1 for a model of previews.
        scales: by position, the factors of the finished latent and of fresh noise; empty for recorded latents.
    """

    positions: tuple[int, ...]
    stored: tuple[int, ...]
    level: dict[int, float]
    unit_scale: dict[int, float]
    scales: dict[int, tuple[float, float]]

    def latents(
        self, rows: Sequence[tuple[Shard, int]], at: np.ndarray, own: slice, rng: np.random.Generator
    ) -> torch.Tensor:
        """Latents float32 of the rows `own` (or another signal), each at its position in `at`; noise is drawn for all
        rows, so that it does not depend on the number of processes.
        """
        read = np.full_like(at, self.stored[0]) if self.scales else at
        chosen = [shard.latents[int(k)][row] for (shard, row), k in zip(rows[own], read[own], strict=True)]
        latents = np.stack(chosen).astype(np.float32)
        if self.scales:
            signal, noise = np.array([self.scales[int(k)] for k in at], np.float32).T[:, :, None, None, None]
            drawn = rng.standard_normal((len(at), *latents.shape[1:]), np.float32)
            latents = signal[own] * latents + noise[own] * drawn[own]
        factor = np.array([self.unit_scale[int(k)] for k in at[own]], np.float32)
        return torch.from_numpy(latents * factor.reshape(-1, *[1] * (latents.ndim - 1)))


def noise_of(config: FineTuneConfig, bench: Bench) -> Noise:
    """The noise of a training run.

    Raises:
        NbenchError: a position is not stored, or the finished latents are not, or a noise level is unknown.
    """
    info = bench.info
    forward = config.process == "forward"
    if forward and info.steps not in info.stored:
        raise NbenchError(
            f"--process forward needs the finished latents, position {info.steps}, and {config.data} lacks them: "
            f"build it with --positions {info.steps} or more"
        )
    positions = parse_positions(config.positions, info.steps) if forward else bench.select(config.positions)
    infos, scales = {at.position: at for at in info.positions}, dict[int, tuple[float, float]]()
    if forward:
        scheduler = info.spec.get("scheduler")
        if scheduler is None:
            raise NbenchError(f"{config.data} does not state the scheduler that made it: use --process reverse")
        infos, scales = forward_levels(scheduler, info.latent_space)
    if getattr(config, "noise_level", "none") != "none":
        for k in positions:
            check_level(infos[k])
    scaled = config.input == "latent"
    return Noise(
        positions,
        (info.steps,) if forward else positions,
        {k: noise_share(infos[k]) for k in positions},
        {k: unit_scale(infos[k]) if scaled else 1.0 for k in positions},
        scales,
    )
