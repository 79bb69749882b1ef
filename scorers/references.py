"""References: scorers of finished images, each with the name of its score table."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import NbenchError, one_line
from ..shards.schema import DatasetInfo, PositionInfo
from ..shards.scores import PROMPT
from .builtin import BUILTIN
from .placement import Placement
from .protocols import PICTURES, Scorer, input_kind, reread
from .registry import get_scorer, scorer_names, unknown
from .weights import file_name

DEFAULT_REFERENCES = ("clip", "vqascore")
"""The references of a bench if none are named."""
TRUTH = "truth"
"""One more of the embedded world's, in place of people's ratings: what an image shows can be told exactly there."""
RESERVED = {"human": "people's ratings", "own": "a model's own scores of the finished images"}
"""Names with another meaning where references are named."""
_NAME = re.compile(r"\w[\w.-]{0,99}")


@dataclass(frozen=True)
class Reference:
    """A scorer as `get_scorer` takes it, and the name of its score table, scores/NAME.parquet.

    Raises:
        NbenchError: the name cannot be a file name or is reserved, or there is no scorer.
    """

    name: str
    scorer: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name.endswith("."):
            raise NbenchError(
                f"{one_line(self.name)!r} cannot be the name of a reference, which becomes a file name: give "
                "NAME=SCORER, with letters, digits, '.', '_' and '-' in NAME"
            )
        if self.name in RESERVED:
            raise NbenchError(f"a reference cannot be called {self.name}, which means {RESERVED[self.name]}: rename it")
        if not self.scorer:
            raise NbenchError(f"reference {self.name} has no scorer: give {self.name}=SCORER")
        if not (":" in self.scorer or "/" in self.scorer or Path(self.scorer).is_dir()):
            names = scorer_names()
            if self.scorer not in names:
                raise unknown("reference", one_line(self.scorer), names, " (or a folder, a Hub id, or FILE.py:CLASS)")

    @property
    def scorer_label(self) -> str:
        """The scorer without local paths: a folder or file is reduced to its name."""
        head, colon, rest = self.scorer.rpartition(":")
        if head.endswith(".py"):
            return f"{Path(head).name}:{rest}"
        return f"{head}{colon}{file_name(rest)}" if Path(rest).exists() else self.scorer


def parse_reference(text: str) -> Reference:
    """Parse NAME=SCORER, or SCORER alone, from which the name is derived.

    Raises:
        NbenchError: see `Reference`.

    >>> parse_reference("judge=vqascore:llava-hf/llava-1.5-7b-hf")
    Reference(name='judge', scorer='vqascore:llava-hf/llava-1.5-7b-hf')
    >>> parse_reference("vqascore:llava-hf/llava-1.5-7b-hf").name, parse_reference("clip").name
    ('vqascore-llava-1.5-7b-hf', 'clip')
    """
    name, equals, scorer = text.strip().partition("=")
    if equals:
        return Reference(name.strip(), scorer.strip())
    kind, colon, model = name.rpartition(":")
    return Reference(f"{file_name(kind)}-{file_name(model)}" if colon else file_name(name), name)


def parse_references(texts: Iterable[str] | None) -> tuple[Reference, ...]:
    """Parse references; None gives the default ones.

    Raises:
        NbenchError: one is invalid, or two have the same name.
    """
    references: dict[str, Reference] = {}
    for text in DEFAULT_REFERENCES if texts is None else texts:
        reference = parse_reference(text)
        if references.setdefault(reference.name, reference) != reference:
            raise NbenchError(f"two references are called {reference.name}: rename one with NAME=SCORER")
    return tuple(references.values())


def load_reference(
    reference: Reference, info: DatasetInfo, placement: Placement | None = None, load: bool = True
) -> Scorer:
    """The scorer behind `reference`, made to read finished images; `load` as for `get_scorer`.

    Raises:
        NbenchError: no such scorer, none of its weights fit, or it does not read images.
    """
    for_images = f"image:{reference.scorer}"
    scorer = get_scorer(for_images if for_images in BUILTIN else reference.scorer, info, placement, load)
    if input_kind(scorer.reads) not in PICTURES:
        raise NbenchError(
            f"{reference.scorer} reads {scorer.reads}, but a reference scores finished images: name a scorer of "
            "images (nbench models)"
        )
    return scorer if scorer.reads == "image" else reread(scorer, "image", scorer.name)


def try_scorer(scorer: Scorer, info: DatasetInfo) -> None:
    """Run `scorer` on one grey image of a data set's size, under a caption that every scorer can read.

    Raises:
        NbenchError: it fails, or does not return a score.
    """
    import torch

    from .apply import AppliedScorer, Rows

    grey = torch.full((1, 3, *info.image_size), 0.5)
    finished = PositionInfo(info.steps, None, 0.0, 1.0)
    rows = Rows(["grey"], [0], {PROMPT: ["one red circle on gray background"]})
    AppliedScorer(scorer).score(rows, finished, lambda part: grey[part])
