"""The scorer protocols: one per capability, batch in, array out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ..errors import NbenchError
from ..shards.schema import PositionInfo
from ..shards.signals import MAX_LOOK_AHEAD, calls_ahead

if TYPE_CHECKING:
    import torch

Reads = str
"""A scorer's input, float32: one of `READS`, with LAYER or NAME filled in."""

READS = {
    "latent": "the latent at the position, as stored [B, C, h, w]",
    "preview": "that latent as RGB [B, 3, H, W] in 0..1, without the VAE",
    "x0": "the finished latent that the denoiser predicts from the position [B, C, h, w]",
    "x0_preview": "that estimate as RGB [B, 3, H, W] in 0..1, without the VAE",
    "x0_image": "that estimate decoded by the VAE, RGB [B, 3, H, W] in 0..1",
    "x0@L": "the estimate of L coarse denoiser steps instead of one; x0_preview@L and x0_image@L likewise",
    "image": "the final image, RGB [B, 3, H, W] in 0..1; only at the final position",
    "cfg_gap": "per step before position k, the norm of conditional minus unconditional prediction [B, k]",
    "activations:LAYER": "pooled output of that layer of the denoiser [B, D]; not at the final position",
    "attention:LAYER": "of each prompt token, mass and spread of that layer's attention to it [B, 2 N]; not at the end",
    "reference:NAME": "the final images' scores by that reference of the bench [B]",
    "nothing": "the names of prompts and candidates",
}
PICTURES = ("preview", "x0_preview", "x0_image", "image")
"""The RGB inputs: a scorer of one can score any other."""
_ESTIMATES = ("x0", "x0_preview", "x0_image")
_LAYERED = ("activations", "attention")


class Scorer(Protocol):
    """The attributes of every scorer. The fingerprint covers everything that changes its scores.

    Optional attributes: a twin tower's `scale` multiplies its cosine. A scorer of activations declares the `width` D
    that it reads; in a live run they are projected to it, as in a build. With `conditioned = True`, `embed_inputs` or
    `score` gets a `PositionInfo` as last argument. `run_steps` is the number of steps of the runs it was opened for, if
    its scores depend on that. With `scores_noise = True`, one of latents or previews may choose at position 0 of a live
    run, before any denoiser call. A method `load()` loads what the constructor left on
    disk; it is called before the first score, and not at all where every score is known.
    """

    name: str
    reads: Reads
    fingerprint: str


@runtime_checkable
class TwinTower(Scorer, Protocol):
    """A dual encoder: embeds each prompt and each input once; the score is their cosine."""

    def embed_text(self, prompts: Sequence[str]) -> torch.Tensor:
        """Unit-norm embeddings float32 [P, D]."""
        ...

    def embed_inputs(self, inputs: torch.Tensor) -> torch.Tensor:
        """Unit-norm embeddings float32 [B, D] of the inputs."""
        ...


@runtime_checkable
class PairScorer(Scorer, Protocol):
    """A cross-encoder: scores input and prompt together."""

    def score(self, inputs: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Scores float [B] of each input with its own prompt."""
        ...


@runtime_checkable
class NameScorer(Scorer, Protocol):
    """Reads nothing: scores a trajectory by its ids."""

    def score_names(self, prompt_ids: Sequence[str], candidates: Sequence[int], position: int) -> torch.Tensor:
        """Scores float [B]."""
        ...


def embed_inputs(scorer: TwinTower, inputs: torch.Tensor, at: PositionInfo) -> torch.Tensor:
    """Embeddings [B, D]; a conditioned scorer gets the position, too."""
    return scorer.embed_inputs(inputs, *_condition(scorer, at))


def score_pairs(scorer: PairScorer, inputs: torch.Tensor, prompts: Sequence[str], at: PositionInfo) -> torch.Tensor:
    """Scores [B]; a conditioned scorer gets the position, too."""
    return scorer.score(inputs, prompts, *_condition(scorer, at))


def _condition(scorer: Scorer, at: PositionInfo) -> tuple[PositionInfo, ...]:
    return (at,) if getattr(scorer, "conditioned", False) else ()


def observed_first(scorer: Any) -> Sequence[int]:
    """The positions at which a scorer must read before it scores: those of a stack, none of other scorers."""
    return tuple(getattr(scorer, "observes", ()))


def input_kind(reads: Reads) -> str:
    """An input without its LAYER, NAME or L.

    >>> input_kind("x0_preview@2"), input_kind("attention:blocks.3.attn"), input_kind("latent")
    ('x0_preview', 'attention', 'latent')
    """
    return reads.partition(":")[0].partition("@")[0]


def calls_per_score(reads: Reads) -> int:
    """Denoiser calls that an input at position k costs beyond the first k calls; the first is the run's own next one.

    >>> calls_per_score("latent"), calls_per_score("x0_image"), calls_per_score("x0_image@3")
    (0, 1, 3)
    """
    kind = input_kind(reads)
    return int(reads.partition("@")[2] or 1) if kind in _ESTIMATES else int(kind in _LAYERED)


def has_input(reads: Reads, position: int, steps: int) -> bool:
    """Whether an input exists at a position: images only at the final one, activations only before it."""
    kind = input_kind(reads)
    return position == steps if kind == "image" else position < steps or kind not in _LAYERED


def checked_scorer(scorer: object, origin: str) -> Scorer:
    """Check that an object is a scorer, and return it; one of numpy arrays now takes and returns tensors.

    Raises:
        NbenchError: an attribute or method is missing, or it reads an unknown input.
    """
    absent = [name for name in ("name", "reads", "fingerprint") if not isinstance(getattr(scorer, name, None), str)]
    if absent:
        raise NbenchError(f"{origin} is not a scorer: it has no {', no '.join(absent)} (a str)")
    if not isinstance(scorer, TwinTower | PairScorer | NameScorer):
        raise NbenchError(f"{origin} is not a scorer: give it embed_text and embed_inputs, or score, or score_names")
    if not reads_exist(scorer.reads):
        raise NbenchError(f"{origin} reads {scorer.reads!r}, which does not exist: there are {', '.join(READS)}")
    if scorer.reads == "nothing" and not isinstance(scorer, NameScorer):
        raise NbenchError(f"{origin} reads nothing: give it score_names")
    return _of_tensors(scorer) if getattr(scorer, "arrays", "torch") == "numpy" else scorer


def reads_exist(reads: Reads) -> bool:
    """Whether an input of this name exists."""
    kind, _, argument = reads.partition(":")
    estimate, look_ahead, calls = reads.partition("@")
    if look_ahead:
        return estimate in _ESTIMATES and 2 <= calls_ahead(f"x0@{calls}") <= MAX_LOOK_AHEAD
    return reads in READS or (kind in (*_LAYERED, "reference") and bool(argument))


def reread(scorer: Scorer, reads: Reads, name: str) -> Scorer:
    """Make a scorer of images read another kind of image; it gets its own name and fingerprint.

    Raises:
        NbenchError: it does not read images.
    """
    if input_kind(scorer.reads) not in PICTURES:
        raise NbenchError(f"{scorer.name} reads {scorer.reads}, so it cannot read {reads}: name a scorer of images")
    return changed(scorer, name=name, reads=reads, fingerprint=f"{scorer.fingerprint}-{reads}")


def looking_ahead(scorer: Scorer, calls: int) -> Scorer:
    """Make a scorer of x0 estimates read those of `calls` denoiser calls; its name and fingerprint end in @calls.

    Raises:
        NbenchError: it does not read x0 estimates.
    """
    if scorer.reads not in _ESTIMATES:
        raise NbenchError(
            f"{scorer.name} reads {scorer.reads}, of which there is no look-ahead: name a scorer of x0 estimates, such "
            f"as x0-clip@{calls} or x0-image@{calls}:SCORER"
        )
    ends = {name: f"{getattr(scorer, name)}@{calls}" for name in ("name", "reads", "fingerprint")}
    return changed(scorer, **ends)


def changed(scorer: Scorer, **attributes: str) -> Scorer:
    """Replace attributes of a scorer; those of a plug-in may be frozen, or properties."""
    for name, value in attributes.items():
        try:
            object.__setattr__(scorer, name, value)
        except AttributeError:
            _override(scorer, {name: value})
    return scorer


def _override(scorer: Scorer, members: dict[str, Any]) -> Scorer:
    """Make a scorer an instance of a class derived from its own, with other members."""
    kind = type(scorer)
    scorer.__class__ = type(kind.__name__, (kind,), members | {"__slots__": ()})
    return scorer


def _of_tensors(scorer: Scorer) -> Scorer:
    """A scorer of numpy arrays as one of tensors."""
    methods = ("embed_text", "embed_inputs", "score", "score_names")
    members = {name: _with_tensors(getattr(type(scorer), name)) for name in methods if hasattr(scorer, name)}
    return _override(changed(scorer, arrays="torch"), members)


def _with_tensors(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def call(scorer: Scorer, *arguments: Any) -> Any:
        import numpy as np
        import torch

        given = [value.cpu().numpy() if isinstance(value, torch.Tensor) else value for value in arguments]
        result = method(scorer, *given)
        return torch.from_numpy(result) if isinstance(result, np.ndarray) else result

    return call
