"""What a scorer reads, from the trajectories of a bench."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ...builders.regenerate import maker_of
from ...errors import NbenchError
from ...scorers.decoders import Decoder, preview_decoder, vae_decoder
from ...scorers.protocols import Reads, Scorer
from ...shards.reader import Bench
from ...shards.schema import TrajectoryBatch
from ...shards.scores import scores_at
from .options import ScoreOptions


def readable(reads: Reads, wanted: Sequence[int], steps: int) -> list[int]:
    """Those of `wanted` at which there is what is read: images at the final position, activations before it."""
    kind = reads.partition(":")[0]
    if kind == "image":
        return [position for position in wanted if position == steps]
    if kind == "activations":
        return [position for position in wanted if position < steps]
    return list(wanted)


class Supply:
    """Hands out what one scorer reads.

    Attributes:
        signals: columns of the bench, other than images, that it needs.
        images: whether it needs the final images.

    Raises:
        NbenchError: the bench lacks a signal, preview map, reference, or the VAE of its pipeline cannot be had.
    """

    def __init__(self, bench: Bench, scorer: Scorer, options: ScoreOptions) -> None:
        self._info = bench.info
        self.kind, _, self._of = scorer.reads.partition(":")
        self.images = self.kind == "image"
        self.signals = _SIGNALS.get(self.kind, ())
        if self.kind == "activations":
            self.signals = (scorer.reads,)
        extra = [signal for signal in self.signals if signal != "latent"]
        if extra:
            bench.require_signals(extra)
        self._decode: Decoder | None = None
        if self.kind in ("preview", "x0_preview"):
            self._decode = self._previews(bench, scorer, options)
        elif self.kind == "x0_image":
            self._decode = vae_decoder(self._info, options.vae or _vae_folder(bench), options.placement)
        self._reference = _reference(bench, self._of) if self.kind == "reference" else {}

    def row_bytes(self, positions: Sequence[int]) -> int:
        """Of one row in memory, about."""
        arrays = len(positions) if {"latent", "x0"} & set(self.signals) else 0
        pixels = 3 * int(np.prod(self._info.image_size)) * self.images
        return max(1, 4 * (pixels + int(np.prod(self._info.latent_shape)) * arrays))

    def inputs(self, batch: TrajectoryBatch, position: int, rows: slice) -> torch.Tensor:
        """What the scorer reads of some rows at a position."""
        if self.kind == "image":
            assert batch.images is not None
            return torch.tensor(batch.images[rows]).permute(0, 3, 1, 2).float() / 255
        if self.kind == "cfg_gap":
            assert batch.cfg_gap is not None
            return torch.tensor(batch.cfg_gap[rows, :position], dtype=torch.float32)
        if self.kind == "activations":
            return torch.tensor(batch.activations[self._of][position][rows], dtype=torch.float32)
        if self.kind == "reference":
            names = zip(batch.prompt_ids[rows], batch.candidates[rows], strict=True)
            return torch.tensor([self._reference.get(name, float("nan")) for name in names], dtype=torch.float64)
        source = batch.x0 if "x0" in self.signals else batch.latents
        latents = torch.tensor(source[position][rows], dtype=torch.float32)
        return latents if self._decode is None else self._decode(latents)

    def _previews(self, bench: Bench, scorer: Scorer, options: ScoreOptions) -> Decoder:
        if options.preview == "linear" and self._info.preview is None:
            raise NbenchError(
                f"{bench.location.url} has no preview map, which {scorer.name} needs: build it with one (--fresh), "
                "or take --preview tiny"
            )
        return preview_decoder(self._info, options.preview, options.placement)


_SIGNALS = {
    "latent": ("latent",),
    "preview": ("latent",),
    "x0": ("x0",),
    "x0_preview": ("x0",),
    "x0_image": ("x0",),
    "cfg_gap": ("cfg_gap",),
}


def _vae_folder(bench: Bench) -> str:
    try:
        return maker_of(bench.info.spec).source
    except NbenchError as error:
        raise NbenchError(f"x0_image needs the VAE of the bench ({error}): give its folder with --vae") from None


def _reference(bench: Bench, name: str) -> dict[tuple[str, int], float]:
    if name not in bench.references:
        has = ", ".join(bench.references) or "none"
        raise NbenchError(f"no reference {name} in this bench: it has {has}")
    return scores_at(bench.references[name], bench.info.steps)
