"""Scorers by name; weights that fit the bench's latent space, and heavy imports only when one is made."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path

from ..errors import NbenchError
from ..shards.schema import DatasetInfo
from .protocols import Scorer

SHAPES_LATENT = (4, 16, 16)
REFERENCES = ("clip", "vqascore")
_WEIGHTS = Path(__file__).parent.parent / "shapes" / "weights"


def scorer_names() -> list[str]:
    """The names that `get_scorer` knows."""
    return sorted(_MODELS)


def get_scorer(name: str, info: DatasetInfo) -> Scorer:
    """The scorer called `name`, or the CLIPModel in that folder or at that Hub id, for the latent space of a bench.

    Raises:
        NbenchError: no such scorer, or none of its weights fit this latent space.
    """
    if name in _MODELS:
        return _MODELS[name](info)
    if "/" in name or Path(name).is_dir():
        from .clip import CLIPScorer

        return CLIPScorer(name, Path(name).name, device=_device())
    raise _unknown("model", name, scorer_names(), " (or the folder or Hub id of a CLIPModel)")


def get_reference(name: str, info: DatasetInfo) -> Scorer:
    """The scorer of final images behind the reference called `name`.

    Raises:
        NbenchError: no such reference, or none of its weights fit the images of this bench.
    """
    if name not in REFERENCES:
        raise _unknown("reference", name, REFERENCES)
    return _vqascore(info) if name == "vqascore" else _clip_image(info)


def clip_folder(info: DatasetInfo) -> Path:
    """The frozen CLIP that fits the latent space of a data set.

    Raises:
        NbenchError: none does.
    """
    return _fitting("clip", info)


def _clip(info: DatasetInfo) -> Scorer:
    from .clip import CLIPScorer

    return CLIPScorer(_fitting("clip", info), device=_device())


def _clip_image(info: DatasetInfo) -> Scorer:
    from .clip import CLIPScorer

    return CLIPScorer(_fitting("clip", info), reads="image", device=_device())


def _noisyclip(info: DatasetInfo) -> Scorer:
    from .noisyclip import NoisyCLIPScorer

    return NoisyCLIPScorer(_fitting("noisyclip", info), device=_device())


def _vqascore(info: DatasetInfo) -> Scorer:
    from .vqascore import VQAScorer

    return VQAScorer(_fitting("vqa", info), device=_device())


def _random(info: DatasetInfo) -> Scorer:
    from .baselines import RandomScorer

    return RandomScorer()


_MODELS: dict[str, Callable[[DatasetInfo], Scorer]] = {
    "clip": _clip,
    "noisyclip": _noisyclip,
    "random": _random,
    "vqascore": _vqascore,
}


def _fitting(weights: str, info: DatasetInfo) -> Path:
    if tuple(info.latent_shape) != SHAPES_LATENT:
        found, fits = ("x".join(map(str, shape)) for shape in (info.latent_shape, SHAPES_LATENT))
        raise NbenchError(
            f"no {weights} weights fit latents of {found}: the shipped ones fit {fits} (pipeline shapes); "
            "name the folder or Hub id of a CLIPModel instead"
        )
    return _WEIGHTS / weights


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _unknown(kind: str, name: str, known: list[str] | tuple[str, ...], other: str = "") -> NbenchError:
    near = difflib.get_close_matches(name, known, 1, cutoff=0.5)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return NbenchError(f"unknown {kind} {name}{hint}: there are {', '.join(known)}{other}")
