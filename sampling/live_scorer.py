"""A scorer applied to a running pipeline: which signal it reads, and at which positions it can score."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from ..errors import NbenchError
from ..pipelines.latent_space import space_from
from ..pipelines.vae import decode
from ..scorers.apply import AppliedScorer, Rows
from ..scorers.decoders import Decoder, input_decoder, preview
from ..scorers.protocols import Reads, Scorer, calls_per_score, input_kind
from ..scorers.registry import get_scorer
from ..scorers.stack import AppliedStack, StackScorer
from ..shards.schema import LatentSpace, PositionInfo, PreviewMap
from ..shards.signals import LAYERED

_READS = (
    "latent",
    "preview",
    "x0",
    "x0_preview",
    "x0_image",
    "image",
    "cfg_gap",
    "activations",
    "attention",
    "nothing",
)


class NamedFit:
    """Checks that the scorer called `name` fits latents of `pipe` [B, C, h, w]: once for each of their shapes.

    Raises (on calling):
        NbenchError: it does not.
    """

    def __init__(self, name: str, pipe: Any, preview_map: PreviewMap | None) -> None:
        self._name, self._pipe, self._preview_map = name, pipe, preview_map
        self._shapes = set[tuple[int, ...]]()

    def open(self, space: LatentSpace) -> Scorer:
        """The scorer, loaded for a latent space, which it then fits."""
        scorer = get_scorer(self._name, space)
        self._shapes.add(space.latent_shape)
        return scorer

    def __call__(self, latents: torch.Tensor) -> None:
        if (shape := tuple(latents.shape[1:])) not in self._shapes:
            get_scorer(self._name, space_from(self._pipe, latents, self._preview_map), load=False)
            self._shapes.add(shape)


class LiveScorer:
    """Scores what `Watch` reports of a running pipeline.

    Args:
        preview_map: the linear map from the pipeline's latents to RGB, for scorers that read previews.
        vae: the pipeline's VAE; it decodes x0 estimates for scorers that read "x0_image".
        fit: is handed the latents of each step, and raises NbenchError if the scorer does not fit them.

    Attributes:
        observes: positions at which it is to score all candidates of a run, whether they are compared there or not.

    Raises:
        NbenchError: not a scorer, it reads a signal that a running pipeline does not have, or it needs a preview map or
            a VAE that is missing.
    """

    def __init__(
        self,
        scorer: Scorer,
        preview_map: PreviewMap | None,
        vae: Any = None,
        fit: Callable[[torch.Tensor], None] | None = None,
    ) -> None:
        if input_kind(scorer.reads) not in _READS:
            raise NbenchError(
                f"{scorer.name} reads {scorer.reads}, which a running pipeline does not have: "
                f"use a scorer that reads one of {', '.join(_READS)}"
            )
        self.scorer, self.preview_map, self.fit = scorer, preview_map, fit or (lambda _: None)
        self._applied = _applied(scorer, preview_map, vae)
        self.observes = frozenset(scorer.positions) if isinstance(scorer, StackScorer) else frozenset[int]()

    def check(self, positions: Sequence[int], steps: int | None) -> None:
        """Check that the scorer can score at `positions` of a run of `steps` steps (None: not known yet).

        Raises:
            NbenchError: position 0 is pure noise, one is after `steps`, a scorer of images is used before `steps`, a
                scorer of activations is used at `steps`, or the scorer is for runs of other steps.
        """
        wanted = getattr(self.scorer, "run_steps", steps)
        if steps is not None and wanted != steps:
            raise NbenchError(f"{self.scorer.name} was opened for runs of {wanted} steps, not {steps}: open it again")
        for position in positions:
            if steps is not None and position > steps:
                raise NbenchError(f"a run of {steps} steps has no position {position}: score at {steps} or earlier")
            if position == 0 and not self.calls and not self.scores_noise:
                raise NbenchError(
                    "position 0 is pure noise, independent of the prompt: score at 1 or later, or use a scorer of "
                    "noise (nbench train noise-prior)"
                )
            if position < self.first:
                raise NbenchError(f"{self.scorer.name} scores from position {self.first} on, not at {position}")
            if self.reads_images and steps is not None and position < steps:
                raise NbenchError(
                    f"{self.scorer.name} reads finished images, which position {position} does not have: "
                    f"score at {steps}"
                )
            if position == steps and self.reads.startswith(LAYERED):
                raise NbenchError(
                    f"{self.scorer.name} reads {input_kind(self.reads)}, which the finished position {steps} does not "
                    "have: make the last selection earlier"
                )

    @property
    def first(self) -> int:
        """The first position at which it can score: that of a stack, 1 of latents but not of noise, else 0."""
        return min(self.observes, default=0 if self.calls or self.scores_noise else 1)

    @property
    def scores_noise(self) -> bool:
        """Whether it can score the initial noise, before any denoiser call: it was trained for that."""
        return self.scorer.reads in ("latent", "preview") and bool(getattr(self.scorer, "scores_noise", False))

    @property
    def seconds(self) -> float:
        """Seconds of scoring so far, including previews and text embeddings."""
        return self._applied.seconds

    @property
    def reads(self) -> Reads:
        """The signal to record; for activations with the width that the scorer expects, if it states one."""
        width = getattr(self.scorer, "width", None)
        return self.scorer.reads if width is None else f"{self.scorer.reads}:{width}"

    @property
    def reads_images(self) -> bool:
        """Whether it scores finished images only."""
        return self.scorer.reads == "image"

    @property
    def calls(self) -> int:
        """Denoiser calls of a score: 0 if it reads the latent; else its score comes a step later, L of a look-ahead."""
        return calls_per_score(self.scorer.reads)

    def copy(self, sources: Mapping[Hashable, Hashable]) -> None:
        """Trajectories go on as copies of others, by their keys (`Rows.keys`)."""
        if isinstance(self._applied, AppliedStack):
            self._applied.copy(sources)

    def hold(self, keys: Collection[Hashable]) -> None:
        """Trajectories that may go on when others have begun, by their keys: what is known of them is kept."""
        if isinstance(self._applied, AppliedStack):
            self._applied.held = frozenset(keys)

    def score(self, rows: Rows, at: PositionInfo, signal: torch.Tensor) -> list[float]:
        """One score per row of `signal`: what `Watch` reports, or RGB [B, 3, H, W] in 0..1 for scorers of images.

        Raises:
            NbenchError: as `AppliedScorer.score`.
        """
        if signal.is_cuda:
            torch.cuda.synchronize(signal.device)  # so that pending denoiser work is not timed here
        (scores,) = self._applied.score(rows, at, lambda part: signal[part]).by_caption.values()
        return scores.tolist()


def _applied(scorer: Scorer, preview_map: PreviewMap | None, vae: Any) -> AppliedScorer:
    if isinstance(scorer, StackScorer):
        return AppliedStack(scorer, [_applied(part, preview_map, vae) for part in scorer.parts])
    decode = input_decoder(scorer.reads, partial(_previews, scorer, preview_map), partial(_images, scorer, vae))
    return AppliedScorer(scorer, decode)


def _previews(scorer: Scorer, preview_map: PreviewMap | None) -> Decoder:
    if preview_map is None:
        raise NbenchError(
            f"{scorer.name} reads previews and this pipeline has no preview map: name a bench of this pipeline "
            "(--bench; in Python preview=open_bench(...).info.preview), or use a scorer that reads latents"
        )
    return partial(preview, preview_map=preview_map)


def _images(scorer: Scorer, vae: Any) -> Decoder:
    if vae is None:
        raise NbenchError(
            f"{scorer.name} reads decoded images and this pipeline has no VAE: use a scorer that reads previews"
        )
    return partial(decode, vae)
