"""The answer of an engine: a near miss of a caption, or why there is none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Status = Literal["ok", "not applicable", "failed"]


@dataclass(frozen=True)
class Change:
    """A near miss of one kind: the whole `caption`, of which the words `before` have become `after`.

    Where the caption has nothing of the kind (status "not applicable") or the engine gave no usable answer
    ("failed", with the reason in `error`), these three are None.
    """

    kind: str
    status: Status
    caption: str | None = None
    before: str | None = None
    after: str | None = None
    error: str | None = None

    @classmethod
    def between(cls, kind: str, text: str, caption: str) -> Change:
        """The change that makes `caption` of `text`: the shortest run of words outside of which both agree."""
        old, new = text.split(), caption.split()
        first = 0
        while first < min(len(old), len(new)) and old[first] == new[first]:
            first += 1
        last = 0
        while last < min(len(old), len(new)) - first and old[-1 - last] == new[-1 - last]:
            last += 1
        words = (" ".join(part[first : len(part) - last]) for part in (old, new))
        return cls(kind, "ok", caption, *words)


class Engine(Protocol):
    """Makes a change of each kind for every caption."""

    name: str

    def changes(self, captions: Sequence[str], kinds: Sequence[str]) -> Iterator[list[Change]]:
        """The changes of each caption, in order; in a caption, in the order of `kinds`."""
        ...
