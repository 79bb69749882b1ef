"""The inputs of a scorer, from the trajectories of a bench."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...builders.spec import maker_of
from ...errors import NbenchError
from ...scorers.protocols import Reads, Scorer, calls_per_score, has_input, input_kind, observed_first
from ...shards.reader import Bench
from ...shards.references import finished_scores
from ...shards.schema import TrajectoryBatch
from ...shards.scores import scores_at
from ...shards.signals import activations_of
from .options import ScoreOptions

if TYPE_CHECKING:
    import torch

    from ...scorers.apply import AppliedScorer
    from ...scorers.decoders import Decoder
    from .card import Card


def readable(scorer: Scorer | Card, positions: Sequence[int], steps: int) -> list[int]:
    """The `positions` that have what the scorer reads; a stack scores from its first position on."""
    first = min(observed_first(scorer), default=0)
    return [position for position in positions if position >= first and has_input(scorer.reads, position, steps)]


def observed(scorer: Scorer, positions: Sequence[int]) -> list[int]:
    """The positions at which the scorer must read to score at `positions`: with a stack, also its own before them."""
    last = max(positions, default=-1)
    return sorted({*positions, *(position for position in observed_first(scorer) if position <= last)})


class BenchInputs:
    """The columns of a bench that one scorer reads, and their rows.

    Attributes:
        signals: the signals of the bench, other than images, that the scorer reads.
        images: whether it reads the final images.

    Raises:
        NbenchError: the bench lacks a signal or a reference.
    """

    def __init__(self, bench: Bench, reads: Reads) -> None:
        self._info = bench.info
        self._kind, self._of = input_kind(reads), reads.partition(":")[2]
        self.images = self._kind == "image"
        calls = calls_per_score(reads)
        if self._kind in ("activations", "attention"):
            self.signals: Sequence[str] = (reads,)
        else:
            self.signals = (f"x0@{calls}",) if calls > 1 else _SIGNALS.get(self._kind, ())
        extra = [signal for signal in self.signals if signal != "latent"]
        if extra:
            bench.require_signals(extra)
        self._reference = _reference(bench, self._of) if self._kind == "reference" else {}

    def columns_at(self, positions: Sequence[int]) -> Sequence[int]:
        """The `positions` with columns to read: none for the CFG gap, because its one column has all steps."""
        return positions if self.signals and self._kind != "cfg_gap" else ()

    def row_bytes(self, positions: Sequence[int]) -> int:
        """Approximate size of one row in memory."""
        arrays = len(positions) if self._kind in _SIGNALS and self._kind != "cfg_gap" else 0
        pixels = 3 * int(np.prod(self._info.image_size)) * self.images
        return max(1, 4 * (pixels + int(np.prod(self._info.latent_shape)) * arrays))

    def recorded(self, batch: TrajectoryBatch, position: int, rows: slice) -> torch.Tensor:
        """The recorded signal of some rows at a position, from which the scorer's inputs are made."""
        import torch

        if self._kind == "image":
            assert batch.images is not None
            return torch.tensor(batch.images[rows]).permute(0, 3, 1, 2).float() / 255
        if self._kind == "cfg_gap":
            assert batch.cfg_gap is not None
            return torch.tensor(batch.cfg_gap[rows, :position], dtype=torch.float32)
        if self._kind in ("activations", "attention"):
            (layer,) = activations_of(self.signals)
            return torch.tensor(batch.activations[layer.key][position][rows], dtype=torch.float32)
        if self._kind == "reference":
            names = zip(batch.prompt_ids[rows], batch.candidates[rows], strict=True)
            return torch.tensor([self._reference.get(name, float("nan")) for name in names], dtype=torch.float64)
        (signal,) = self.signals
        source = batch.latents if signal == "latent" else batch.estimates(signal)
        return torch.tensor(source[position][rows], dtype=torch.float32)


def applied(bench: Bench, scorer: Scorer, options: ScoreOptions) -> AppliedScorer:
    """A scorer that takes what `BenchInputs.recorded` returns.

    Raises:
        NbenchError: the bench has no preview map, or the VAE of its pipeline cannot be loaded.
    """
    from ...scorers.apply import AppliedScorer
    from ...scorers.decoders import input_decoder, preview_decoder, vae_decoder
    from ...scorers.stack import AppliedStack, StackScorer

    if isinstance(scorer, StackScorer):
        if scorer.run_steps != bench.info.steps:
            raise NbenchError(
                f"{scorer.name} was trained on runs of {scorer.run_steps} steps, not the {bench.info.steps} of this "
                "bench: train another"
            )
        return AppliedStack(scorer, [applied(bench, part, options) for part in scorer.parts])
    space = bench.info.latent_space

    def previews() -> Decoder:
        return preview_decoder(space, options.preview, options.placement)

    def vae() -> Decoder:
        return vae_decoder(space, options.vae or _vae_folder(bench), options.placement)

    return AppliedScorer(scorer, input_decoder(scorer.reads, previews, vae), options.batch_size)


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
        maker = maker_of(bench.info.spec)
        if maker.checkpoint:
            raise NbenchError(f"{maker.name} is a single file")
        return maker.source
    except NbenchError as error:
        raise NbenchError(f"x0_image needs the VAE of the bench ({error}): give its folder with --vae") from None


def _reference(bench: Bench, name: str) -> dict[tuple[str, int], float]:
    return scores_at(finished_scores(bench, name), bench.info.steps)
