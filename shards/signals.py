"""Signals: what a data set stores of a denoising step, by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from ..errors import NbenchError

DEFAULT_SIGNALS = ("latent", "image")
SIGNALS = ("latent", "x0", "cfg_gap", "image")
ACTIVATIONS, ATTENTION = "activations:", "attention:"
LAYERED = (ACTIVATIONS, ATTENTION)
MAX_LOOK_AHEAD = 99
MAX_WIDTH = 2**16
_LAYER = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
_LONGEST_LAYER = 72
"""Characters that fit beside the key in the name of a tar member."""
_X0 = re.compile(r"x0(?:@(\d+))?")


@dataclass(frozen=True)
class Activations:
    """What a denoiser layer gives, pooled: its activations, or its attention to the prompt's tokens.

    `width` numbers: None for the layer's channel count, or twice the number of tokens of an attention (`prefix` says
    which): the mass of each, then the spread of each.
    """

    layer: str
    width: int | None = None
    prefix: str = ACTIVATIONS

    @property
    def name(self) -> str:
        """Its name in `--signals` and dataset.json."""
        return f"{self.prefix}{self.layer}" + ("" if self.width is None else f":{self.width}")

    @property
    def key(self) -> str:
        """Its name among the activations of a batch: LAYER, or attention:LAYER."""
        return self.layer if self.prefix == ACTIVATIONS else f"{self.prefix}{self.layer}"

    @property
    def stem(self) -> str:
        """The prefix of its column names."""
        return f"{self.prefix[:3]}_{self.layer.replace('.', '_')}"

    @classmethod
    def parse(cls, name: str) -> Activations:
        """Parse `activations:LAYER[:DIM]` or `attention:LAYER[:DIM]`.

        Raises:
            NbenchError: invalid text.
        """
        prefix = ATTENTION if name.startswith(ATTENTION) else ACTIVATIONS
        layer, _, width = name.removeprefix(prefix).partition(":")
        valid = _LAYER.fullmatch(layer) and len(layer) <= _LONGEST_LAYER
        if not valid or (width and not (width.isascii() and width.isdigit() and 1 <= int(width[:9]) <= MAX_WIDTH)):
            raise NbenchError(
                f"signal {name[:100]!r} is not understood: give {prefix}LAYER or {prefix}LAYER:DIM, LAYER as "
                f"in named_modules of the denoiser, at most {_LONGEST_LAYER} characters, DIM from 1 to {MAX_WIDTH}"
            )
        return cls(layer, int(width) if width else None, prefix)


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
    """Signals in canonical order: latent, x0, x0@L by L, cfg_gap, activations and attention in input order, image.

    Raises:
        NbenchError: an unknown or repeated signal, or latent or image is missing.
    """
    requested = [name.strip() for name in names if name.strip()]
    layers = activations_of(requested)
    plain = [name for name in requested if not name.startswith(LAYERED)]
    if unknown := [name for name in plain if name not in SIGNALS and not _is_look_ahead(name)]:
        raise NbenchError(
            f"no signal {unknown[0][:100]!r}: there are {', '.join(SIGNALS)}, x0@L (L from 2 to {MAX_LOOK_AHEAD}), "
            f"{ACTIVATIONS}LAYER[:DIM] and {ATTENTION}LAYER"
        )
    stems = [layer.stem.lower() for layer in layers]
    if len(set(plain)) < len(plain) or len(set(stems)) < len(stems):
        raise NbenchError(f"signals {', '.join(requested)} repeat a signal: name each once")
    if missing := [name for name in DEFAULT_SIGNALS if name not in plain]:
        raise NbenchError(f"signals {', '.join(requested)} lack {missing[0]}, which every data set stores: add it")
    first, estimates = [name for name in SIGNALS[:1] if name in plain], estimates_of(plain)
    gap = [name for name in SIGNALS[2:-1] if name in plain]
    return (*first, *estimates, *gap, *(layer.name for layer in layers), SIGNALS[-1])


def activations_of(signals: Iterable[str]) -> tuple[Activations, ...]:
    """The activations and attentions in `signals`."""
    return tuple(Activations.parse(name) for name in signals if name.startswith(LAYERED))


def calls_ahead(signal: str) -> int:
    """The denoiser calls L of an estimate of the finished latent: x0 takes one, x0@L takes L; 0 of other signals.

    >>> calls_ahead("x0"), calls_ahead("x0@3"), calls_ahead("latent")
    (1, 3, 0)
    """
    match = _X0.fullmatch(signal)
    return int(match[1] or 1) if match else 0


def extra_calls(calls_per_score: int, position: int, steps: int) -> int:
    """The calls of a score at a position that the run itself does not make: those of a look-ahead but the first.

    >>> extra_calls(1, 5, 50), extra_calls(3, 5, 50), extra_calls(3, 48, 50), extra_calls(3, 50, 50)
    (0, 2, 1, 0)
    """
    return max(0, min(calls_per_score, steps - position) - 1)


def estimates_of(signals: Iterable[str]) -> tuple[str, ...]:
    """The estimates of the finished latent in `signals`, x0 and x0@L, by L."""
    return tuple(sorted(filter(calls_ahead, signals), key=calls_ahead))


def _is_look_ahead(name: str) -> bool:
    calls = calls_ahead(name[:8])
    return 2 <= calls <= MAX_LOOK_AHEAD and name == f"x0@{calls}"


def absent_signals(wanted: Sequence[str], has: Sequence[str]) -> list[str]:
    """The signals of `wanted` that `has` lacks; activations match by layer, and by width if it is named."""
    available = {*has, *(f"{each.prefix}{each.layer}" for each in activations_of(has))}
    return [name for name in wanted if name not in available]
