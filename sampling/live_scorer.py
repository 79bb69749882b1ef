"""A scorer fed from a run under way: what the run is watched for, and where there is something to score."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from ..errors import NbenchError
from ..pipelines.vae import decode
from ..scorers.apply import AppliedScorer, Rows
from ..scorers.decoders import Decoder, input_decoder, preview
from ..scorers.protocols import Reads, Scorer, calls_per_score
from ..shards.schema import PositionInfo, PreviewMap

_READS = ("latent", "preview", "x0", "x0_preview", "x0_image", "image", "cfg_gap", "activations", "nothing")


class LiveScorer:
    """A scorer of what `Watch` reports of a pipeline's run.

    Args:
        preview_map: that of the pipeline's latents, for a scorer that reads previews.
        vae: the pipeline's, which decodes x0 estimates for a scorer that reads "x0_image".

    Raises:
        NbenchError: it is no scorer, it reads what no run gives, or there is no preview map or VAE that it needs.
    """

    def __init__(self, scorer: Scorer, preview_map: PreviewMap | None, vae: Any = None) -> None:
        if scorer.reads.partition(":")[0] not in _READS:
            raise NbenchError(f"{scorer.name} reads {scorer.reads}, which a run does not give: {', '.join(_READS)}")
        self.scorer, self.preview_map = scorer, preview_map
        decode = input_decoder(scorer.reads, partial(_previews, scorer, preview_map), partial(_images, scorer, vae))
        self._applied = AppliedScorer(scorer, decode)

    def check(self, positions: Sequence[int], steps: int | None) -> None:
        """See that there is something to read at `positions` of a run of `steps` steps (None: not known yet).

        Raises:
            NbenchError: the noise of position 0 is all there is, a scorer of images has none before `steps`, or one of
                what a step makes has none at `steps`.
        """
        for position in positions:
            if self.reads_images and steps is not None and position < steps:
                raise NbenchError(
                    f"{self.scorer.name} reads finished images, of which position {position} has none: score at {steps}"
                )
            if position == steps and self.reads.startswith("activations"):
                raise NbenchError(
                    f"{self.scorer.name} reads activations, of which the finished position {steps} has none: choose "
                    "all who are to be kept earlier"
                )
            if position == 0 and not self.lag:
                raise NbenchError("position 0 is noise, of which no prompt is known yet: score at 1 or later")

    @property
    def seconds(self) -> float:
        """What the scorer has taken so far, previews and text embeddings included."""
        return self._applied.seconds

    @property
    def reads(self) -> Reads:
        """What is to be read of the run: activations in the width that the scorer takes, where it says so."""
        width = getattr(self.scorer, "width", None)
        return self.scorer.reads if width is None else f"{self.scorer.reads}:{width}"

    @property
    def reads_images(self) -> bool:
        """Whether it can score finished images only."""
        return self.scorer.reads == "image"

    @property
    def lag(self) -> int:
        """1 if it reads what the step from a position makes, and so scores the position one step later."""
        return calls_per_score(self.scorer.reads)

    def score(self, rows: Rows, at: PositionInfo, signal: torch.Tensor) -> list[float]:
        """One score per row of `signal`: what `Watch` reports or, for a scorer of images, RGB [B, 3, H, W] in 0..1.

        Raises:
            NbenchError: as `AppliedScorer.score`.
        """
        if signal.is_cuda:
            torch.cuda.synchronize(signal.device)  # what the denoiser still owes is not the scorer's time
        (scores,) = self._applied.score(rows, at, lambda part: signal[part]).by_caption.values()
        return scores.tolist()


def _previews(scorer: Scorer, preview_map: PreviewMap | None) -> Decoder:
    if preview_map is None:
        raise NbenchError(
            f"{scorer.name} reads previews and this pipeline has no preview map: name a bench of this pipeline "
            "(--bench; in Python preview=open_bench(...).info.preview), or a scorer that reads latents"
        )
    return partial(preview, preview_map=preview_map)


def _images(scorer: Scorer, vae: Any) -> Decoder:
    if vae is None:
        raise NbenchError(f"{scorer.name} reads decoded images and this pipeline has no VAE: read previews")
    return partial(decode, vae)
