"""Signals: what a data set stores of a denoising step, by name."""

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
"""Characters that fit beside the key in the name of a tar member."""


@dataclass(frozen=True)
class Activations:
    """Pooled activations of a denoiser layer; `width` numbers, None for the layer's channel count."""

    layer: str
    width: int | None = None

    @property
    def name(self) -> str:
        """Its name in `--signals` and dataset.json."""
        return f"{ACTIVATIONS}{self.layer}" + ("" if self.width is None else f":{self.width}")

    @property
    def stem(self) -> str:
        """The prefix of its column names."""
        return f"act_{self.layer.replace('.', '_')}"

    @classmethod
    def parse(cls, name: str) -> Activations:
        """Parse `activations:LAYER[:DIM]`.

        Raises:
            NbenchError: invalid text.
        """
        layer, _, width = name.removeprefix(ACTIVATIONS).partition(":")
        valid = _LAYER.fullmatch(layer) and len(layer) <= _LONGEST_LAYER
        if not valid or (width and not (width.isascii() and width.isdigit() and 1 <= int(width[:9]) <= MAX_WIDTH)):
            raise NbenchError(
                f"signal {name[:100]!r} is not understood: give {ACTIVATIONS}LAYER or {ACTIVATIONS}LAYER:DIM, LAYER as "
                f"in named_modules of the denoiser, at most {_LONGEST_LAYER} characters, DIM from 1 to {MAX_WIDTH}"
            )
        return cls(layer, int(width) if width else None)


@dataclass(frozen=True)
class ArrayColumn:
    """A numeric column: its signal, position, dtype, shape per row, and the name of its member in a tar."""

    signal: str
    position: int | None
    element: Literal["float16", "float32", "int8"]
    shape: tuple[int, ...]
    member: str = ""

    @property
    def label(self) -> str:
        """Its signal and position, for messages."""
        return self.signal if self.position is None else f"{self.signal} at {self.position}"

    @property
    def scale(self) -> bool:
        """Whether it holds the scales of an int8 column, which is neither a signal nor a tar member."""
        return not self.member


def normal_signals(names: Iterable[str]) -> tuple[str, ...]:
    """Signals in canonical order: latent, x0, cfg_gap, activations in input order, image.

    Raises:
        NbenchError: an unknown or repeated signal, or latent or image is missing.
    """
    requested = [name.strip() for name in names if name.strip()]
    layers = [Activations.parse(name) for name in requested if name.startswith(ACTIVATIONS)]
    plain = [name for name in requested if not name.startswith(ACTIVATIONS)]
    if unknown := [name for name in plain if name not in SIGNALS]:
        raise NbenchError(f"no signal {unknown[0]!r}: there are {', '.join(SIGNALS)} and {ACTIVATIONS}LAYER[:DIM]")
    stems = [layer.stem.lower() for layer in layers]
    if len(set(plain)) < len(plain) or len(set(stems)) < len(stems):
        raise NbenchError(f"signals {', '.join(requested)} repeat a signal: name each once")
    if missing := [name for name in DEFAULT_SIGNALS if name not in plain]:
        raise NbenchError(f"signals {', '.join(requested)} lack {missing[0]}, which every data set stores: add it")
    return (*(name for name in SIGNALS[:-1] if name in plain), *(layer.name for layer in layers), SIGNALS[-1])


def activations_of(signals: Iterable[str]) -> tuple[Activations, ...]:
    """The activations in `signals`."""
    return tuple(Activations.parse(name) for name in signals if name.startswith(ACTIVATIONS))


def absent_signals(wanted: Sequence[str], has: Sequence[str]) -> list[str]:
    """The signals of `wanted` that `has` lacks; activations match by layer, and by width if it is named."""
    available = {*has, *(f"{ACTIVATIONS}{each.layer}" for each in activations_of(has))}
    return [name for name in wanted if name not in available]
