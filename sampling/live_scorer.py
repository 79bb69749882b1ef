"""What a scorer reads of a run under way, and its scores, timed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import NbenchError
from ..pipelines.vae import decode
from ..scorers.previews import preview
from ..scorers.protocols import (
    NameScorer,
    PairScorer,
    Reads,
    Scorer,
    TwinTower,
    calls_per_score,
    embed_inputs,
    score_pairs,
)
from ..shards.schema import PositionInfo, PreviewMap

_PREVIEWS = ("preview", "x0_preview")
_READS = ("latent", "preview", "x0", "x0_preview", "x0_image", "image", "cfg_gap", "activations", "nothing")


@dataclass(frozen=True)
class Named:
    """Whose rows are scored: prompt ids, prompts and candidate numbers, one each a row."""

    prompt_ids: Sequence[str]
    prompts: Sequence[str]
    candidates: Sequence[int]


class LiveScorer:
    """A scorer fed from a run. `seconds` is what it has taken so far, previews and text embeddings included.

    Args:
        vae: decodes x0 estimates for a scorer that reads "x0_image".

    Raises:
        NbenchError: the scorer reads what no run gives, or previews of a latent space without a preview map.
    """

    def __init__(self, scorer: Scorer, preview_map: PreviewMap | None, vae: Any = None) -> None:
        if scorer.reads.partition(":")[0] not in _READS:
            raise NbenchError(f"{scorer.name} reads {scorer.reads}, which a run does not give: {', '.join(_READS)}")
        if scorer.reads in _PREVIEWS and preview_map is None:
            raise NbenchError(
                f"{scorer.name} reads previews and this pipeline has no preview map: give preview= as the "
                "dataset.json of a bench of this pipeline states it, or a scorer that reads latents"
            )
        self.scorer, self.preview_map, self._vae = scorer, preview_map, vae
        self._texts: dict[str, torch.Tensor] = {}
        self.seconds = 0.0

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

    def score(self, named: Named, at: PositionInfo, known: torch.Tensor) -> list[float]:
        """A score a row of `known`: what `Watch` tells or, for a scorer of images, RGB [B, 3, H, W] in 0..1."""
        if known.is_cuda:
            torch.cuda.synchronize(known.device)  # what the denoiser still owes is not the scorer's time
        start = time.perf_counter()
        values: list[float] = self._score(named, at, known).tolist()
        self.seconds += time.perf_counter() - start
        return values

    def _score(self, named: Named, at: PositionInfo, known: torch.Tensor) -> torch.Tensor:
        scorer = self.scorer
        if isinstance(scorer, NameScorer):
            return scorer.score_names(named.prompt_ids, named.candidates, at.position)
        inputs = known.float()
        if scorer.reads in _PREVIEWS and self.preview_map is not None:
            inputs = preview(inputs, self.preview_map)
        elif str(scorer.reads) == "x0_image":
            inputs = decode(self._vae, known)
        if isinstance(scorer, PairScorer):
            return score_pairs(scorer, inputs, named.prompts, at)
        assert isinstance(scorer, TwinTower)
        cosine = (self._embedded(scorer, named.prompts) * embed_inputs(scorer, inputs, at)).sum(-1)
        return cosine * float(getattr(scorer, "scale", 1.0))

    def _embedded(self, tower: TwinTower, prompts: Sequence[str]) -> torch.Tensor:
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._texts]
        if new:
            self._texts |= dict(zip(new, tower.embed_text(new), strict=True))
        return torch.stack([self._texts[prompt] for prompt in prompts])
