"""Signals: what a data set keeps of a step besides its latent, by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from ..errors import NbenchError

DEFAULT_SIGNALS = ("latent", "image")
SIGNALS = ("latent", "x0", "cfg_gap", "image")
ACTIVATIONS = "activations:"
MAX_WIDTH = 2**16
_LAYER = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
_LONGEST_LAYER = 72
"""Characters: a tar's member has room for so many beside its key."""


@dataclass(frozen=True)
class Activations:
    """Pooled activations of a denoiser's layer; `width` numbers, None: as many as the layer has channels."""

    layer: str
    width: int | None = None

    @property
    def name(self) -> str:
        """As `--signals` takes it, and as dataset.json states it."""
        return f"{ACTIVATIONS}{self.layer}" + ("" if self.width is None else f":{self.width}")

    @property
    def stem(self) -> str:
        """What the names of its columns begin with."""
        return f"act_{self.layer.replace('.', '_')}"

    @classmethod
    def parse(cls, name: str) -> Activations:
        """Of `activations:LAYER[:DIM]`.

        Raises:
            NbenchError: it is not that.
        """
        layer, _, width = name.removeprefix(ACTIVATIONS).partition(":")
        sound = _LAYER.fullmatch(layer) and len(layer) <= _LONGEST_LAYER
        if not sound or (width and not (width.isascii() and width.isdigit() and 1 <= int(width[:9]) <= MAX_WIDTH)):
            raise NbenchError(
                f"signal {name[:100]!r} is not understood: give {ACTIVATIONS}LAYER or {ACTIVATIONS}LAYER:DIM, LAYER as "
                f"in named_modules of the denoiser, at most {_LONGEST_LAYER} characters, DIM from 1 to {MAX_WIDTH}"
            )
        return cls(layer, int(width) if width else None)


@dataclass(frozen=True)
class ArrayColumn:
    """A column of numbers: what it holds, at which position, and how.

    shape: of a row. member: what it is called in a tar.
    """

    label: str
    position: int | None
    element: Literal["float16", "float32", "int8"]
    shape: tuple[int, ...]
    member: str = ""

    @property
    def scale(self) -> bool:
        """Whether it holds the scales of an int8 column: no signal of its own, and no member of a tar."""
        return not self.member


def normal_signals(names: Iterable[str]) -> tuple[str, ...]:
    """Signals in their one order: latent, x0, cfg_gap, activations as given, image.

    Raises:
        NbenchError: one that there is not, is named twice, or that latent or image is left out.
    """
    given = [name.strip() for name in names if name.strip()]
    layers = [Activations.parse(name) for name in given if name.startswith(ACTIVATIONS)]
    plain = [name for name in given if not name.startswith(ACTIVATIONS)]
    if unknown := [name for name in plain if name not in SIGNALS]:
        raise NbenchError(f"no signal {unknown[0]!r}: there are {', '.join(SIGNALS)} and {ACTIVATIONS}LAYER[:DIM]")
    stems = [layer.stem.lower() for layer in layers]
    if len(set(plain)) < len(plain) or len(set(stems)) < len(stems):
        raise NbenchError(f"signals {', '.join(given)} name one twice: name each once")
    if missing := [name for name in DEFAULT_SIGNALS if name not in plain]:
        raise NbenchError(f"signals {', '.join(given)} leave out {missing[0]}, which every data set keeps: add it")
    return (*(name for name in SIGNALS[:-1] if name in plain), *(layer.name for layer in layers), SIGNALS[-1])


def activations_of(signals: Iterable[str]) -> tuple[Activations, ...]:
    """The activations among signals."""
    return tuple(Activations.parse(name) for name in signals if name.startswith(ACTIVATIONS))


def absent_signals(wanted: Sequence[str], has: Sequence[str]) -> list[str]:
    """Those of `wanted` that are not in `has`; activations go by their layer, and by their width where it is named."""
    known = {*has, *(f"{ACTIVATIONS}{each.layer}" for each in activations_of(has))}
    return [name for name in wanted if name not in known]
