"""The scorer protocols: one per capability, batch in, array out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ..errors import NbenchError
from ..shards.schema import PositionInfo

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
    "image": "the final image, RGB [B, 3, H, W] in 0..1; only at the final position",
    "cfg_gap": "per step before position k, the norm of conditional minus unconditional prediction [B, k]",
    "activations:LAYER": "pooled output of that layer of the denoiser [B, D]; not at the final position",
    "reference:NAME": "the final images' scores by that reference of the bench [B]",
    "nothing": "the names of prompts and candidates",
}
PICTURES = ("preview", "x0_preview", "x0_image", "image")
"""The RGB inputs: a scorer of one can score any other."""
_NEED_A_STEP = ("x0", "x0_preview", "x0_image", "activations")


class Scorer(Protocol):
    """The attributes of every scorer. The fingerprint covers everything that changes its scores.

    Optional attributes: a twin tower's `scale` multiplies its cosine. A scorer of activations declares the `width` D
    that it reads; in a live run they are projected to it, as in a build. With `conditioned = True`, `embed_inputs` or
    `score` gets a `PositionInfo` as last argument. `run_steps` is the number of steps of the runs it was opened for, if
    its scores depend on that. A method `load()` loads what the constructor left on
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


def calls_per_score(reads: Reads) -> int:
    """Denoiser calls that an input at position k costs beyond the first k calls."""
    return int(reads.partition(":")[0] in _NEED_A_STEP)


def has_input(reads: Reads, position: int, steps: int) -> bool:
    """Whether an input exists at a position: images only at the final one, activations only before it."""
    kind = reads.partition(":")[0]
    return {"image": position == steps, "activations": position < steps}.get(kind, True)


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
    kind, _, argument = scorer.reads.partition(":")
    if scorer.reads not in READS and (kind not in ("activations", "reference") or not argument):
        raise NbenchError(f"{origin} reads {scorer.reads!r}, which does not exist: there are {', '.join(READS)}")
    if kind == "nothing" and not isinstance(scorer, NameScorer):
        raise NbenchError(f"{origin} reads nothing: give it score_names")
    return _of_tensors(scorer) if getattr(scorer, "arrays", "torch") == "numpy" else scorer


def reread(scorer: Scorer, reads: Reads, name: str) -> Scorer:
    """Make a scorer of images read another kind of image; it gets its own name and fingerprint.

    Raises:
        NbenchError: it does not read images.
    """
    if scorer.reads not in PICTURES:
        raise NbenchError(f"{scorer.name} reads {scorer.reads}, so it cannot read {reads}: name a scorer of images")
    return changed(scorer, name=name, reads=reads, fingerprint=f"{scorer.fingerprint}-{reads}")


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
