"""What a scorer is: small protocols by capability, batch in, array out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ..errors import NbenchError
from ..shards.schema import PositionInfo

if TYPE_CHECKING:
    import torch

Reads = str
"""What the harness hands a scorer, as float32: one of `READS`, with LAYER or NAME filled in."""

READS = {
    "latent": "the latent of the position, as it is [B, C, h, w]",
    "preview": "that latent as RGB [B, 3, H, W] in 0..1, without the VAE",
    "x0": "the finished latent that the denoiser predicts from the position [B, C, h, w]",
    "x0_preview": "that estimate as RGB [B, 3, H, W] in 0..1, without the VAE",
    "x0_image": "that estimate decoded by the VAE, RGB [B, 3, H, W] in 0..1",
    "image": "the final image, RGB [B, 3, H, W] in 0..1; at the final position alone",
    "cfg_gap": "of each step before position k, the norm of conditional minus unconditional prediction [B, k]",
    "activations:LAYER": "pooled output of that layer of the denoiser [B, D]; not at the final position",
    "reference:NAME": "the final images' scores by that reference of the bench [B]",
    "nothing": "the names of prompts and candidates",
}
PICTURES = ("preview", "x0_preview", "x0_image", "image")
"""Those that are RGB: a scorer of one can score any other."""
_NEED_A_STEP = ("x0", "x0_preview", "x0_image", "activations")


class Scorer(Protocol):
    """What every scorer says of itself. The fingerprint covers all that changes its scores.

    A twin tower may declare a `scale` that its cosine is multiplied by, and a scorer of activations the `width` D that
    it takes, which those of a live run are projected to as a build does. A scorer that declares `conditioned = True` is
    given the position too: its `embed_inputs` or `score` takes a `PositionInfo` as last argument.
    """

    name: str
    reads: Reads
    fingerprint: str


@runtime_checkable
class TwinTower(Scorer, Protocol):
    """Embeds prompts and inputs apart, so that each is embedded once; the score is the cosine."""

    def embed_text(self, prompts: Sequence[str]) -> torch.Tensor:
        """Unit-norm embeddings float32 [P, D]."""
        ...

    def embed_inputs(self, inputs: torch.Tensor) -> torch.Tensor:
        """Unit-norm embeddings float32 [B, D] of what the scorer reads."""
        ...


@runtime_checkable
class PairScorer(Scorer, Protocol):
    """Looks at input and prompt together."""

    def score(self, inputs: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Scores float [B] of each input with its own prompt."""
        ...


@runtime_checkable
class NameScorer(Scorer, Protocol):
    """Reads nothing: scores a trajectory by its name."""

    def score_names(self, prompt_ids: Sequence[str], candidates: Sequence[int], position: int) -> torch.Tensor:
        """Scores float [B]."""
        ...


def embed_inputs(scorer: TwinTower, inputs: torch.Tensor, at: PositionInfo) -> torch.Tensor:
    """Embeddings [B, D]; a conditioned scorer is told the position."""
    return scorer.embed_inputs(inputs, *_told(scorer, at))


def score_pairs(scorer: PairScorer, inputs: torch.Tensor, prompts: Sequence[str], at: PositionInfo) -> torch.Tensor:
    """Scores [B]; a conditioned scorer is told the position."""
    return scorer.score(inputs, prompts, *_told(scorer, at))


def _told(scorer: Scorer, at: PositionInfo) -> tuple[PositionInfo, ...]:
    return (at,) if getattr(scorer, "conditioned", False) else ()


def calls_per_score(reads: Reads) -> int:
    """Denoiser calls that what is read at position k costs beyond the k calls before it."""
    return int(reads.partition(":")[0] in _NEED_A_STEP)


def has_input(reads: Reads, position: int, steps: int) -> bool:
    """Whether there is what is read at a position: an image at the final one alone, activations before it."""
    kind = reads.partition(":")[0]
    return {"image": position == steps, "activations": position < steps}.get(kind, True)


def checked_scorer(scorer: object, origin: str) -> Scorer:
    """A scorer, once it has what the harness relies on.

    Raises:
        NbenchError: an attribute or method is missing, or it reads what no harness supplies.
    """
    absent = [name for name in ("name", "reads", "fingerprint") if not isinstance(getattr(scorer, name, None), str)]
    if absent:
        raise NbenchError(f"{origin} is no scorer: it has no {', no '.join(absent)} (a str)")
    if not isinstance(scorer, TwinTower | PairScorer | NameScorer):
        raise NbenchError(f"{origin} is no scorer: give it embed_text and embed_inputs, or score, or score_names")
    kind, _, of = scorer.reads.partition(":")
    if scorer.reads not in READS and (kind not in ("activations", "reference") or not of):
        raise NbenchError(f"{origin} reads {scorer.reads!r}, which there is not: there are {', '.join(READS)}")
    if kind == "nothing" and not isinstance(scorer, NameScorer):
        raise NbenchError(f"{origin} reads nothing, so it can go by names alone: give it score_names")
    return scorer


def reread(scorer: Scorer, reads: Reads, name: str) -> Scorer:
    """The same scorer of pictures, looking at others: another scorer, with a name and a fingerprint of its own.

    Raises:
        NbenchError: it does not look at pictures.
    """
    if scorer.reads not in PICTURES:
        raise NbenchError(f"{scorer.name} reads {scorer.reads}, so it cannot read {reads}: name a scorer of pictures")
    return changed(scorer, name=name, reads=reads, fingerprint=f"{scorer.fingerprint}-{reads}")


def changed(scorer: Scorer, **attributes: str) -> Scorer:
    """The scorer, saying something else of itself; a plug-in's own attributes may be frozen, or properties."""
    for name, value in attributes.items():
        try:
            object.__setattr__(scorer, name, value)
        except AttributeError:
            kind = type(scorer)
            scorer.__class__ = type(kind.__name__, (kind,), {name: value, "__slots__": ()})
    return scorer
