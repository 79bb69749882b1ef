"""References: scorers of finished images, each by the name that a data set keeps its scores under."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import NbenchError, one_line
from ..shards.schema import DatasetInfo, PositionInfo
from ..shards.scores import PROMPT
from .apply import AppliedScorer, Rows
from .builtin import BUILTIN
from .placement import Placement
from .protocols import PICTURES, Scorer, reread
from .registry import get_scorer, scorer_names, unknown
from .weights import file_name

DEFAULT_REFERENCES = ("clip", "vqascore")
"""What a bench gets unless others are named."""
RESERVED = {"human": "people's ratings", "own": "a model's own scores of the finished images"}
"""Names that stand for something else wherever references are named."""
_NAME = re.compile(r"\w[\w.-]{0,99}")


@dataclass(frozen=True)
class Reference:
    """name: of the score table, scores/NAME.parquet; scorer: as `get_scorer` takes it.

    Raises:
        NbenchError: a name that no file can have or that is taken, or no scorer.
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
            raise NbenchError(f"a reference cannot be called {self.name}, which is {RESERVED[self.name]}: rename it")
        if not self.scorer:
            raise NbenchError(f"reference {self.name} has no scorer: give {self.name}=SCORER")
        if not (":" in self.scorer or "/" in self.scorer or Path(self.scorer).is_dir()):
            there = scorer_names()
            if self.scorer not in there:
                raise unknown("reference", one_line(self.scorer), there, " (or a folder, a Hub id, or FILE.py:CLASS)")

    @property
    def scorer_label(self) -> str:
        """The scorer without where it lies on this machine: of a folder or file its own name."""
        head, colon, rest = self.scorer.rpartition(":")
        if head.endswith(".py"):
            return f"{Path(head).name}:{rest}"
        return f"{head}{colon}{file_name(rest)}" if Path(rest).exists() else self.scorer


def parse_reference(text: str) -> Reference:
    """NAME=SCORER, or SCORER alone, which is then called after itself.

    Raises:
        NbenchError: as of `Reference`.

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
    """The references of `texts`, the default ones of None.

    Raises:
        NbenchError: one cannot be, or two have one name.
    """
    references: dict[str, Reference] = {}
    for text in DEFAULT_REFERENCES if texts is None else texts:
        reference = parse_reference(text)
        if references.setdefault(reference.name, reference) != reference:
            raise NbenchError(f"two references are called {reference.name}: give one another NAME=SCORER")
    return tuple(references.values())


def load_reference(reference: Reference, info: DatasetInfo, placement: Placement | None = None) -> Scorer:
    """The scorer behind `reference`, reading finished images, whatever pictures it usually reads.

    Raises:
        NbenchError: no such scorer, none of its weights fit, or it reads no pictures.
    """
    for_images = f"image:{reference.scorer}"
    scorer = get_scorer(for_images if for_images in BUILTIN else reference.scorer, info, placement)
    if scorer.reads not in PICTURES:
        raise NbenchError(
            f"{reference.scorer} reads {scorer.reads}, and a reference scores finished images: name a scorer of "
            "pictures (nbench models)"
        )
    return scorer if scorer.reads == "image" else reread(scorer, "image", scorer.name)


def try_scorer(scorer: Scorer, info: DatasetInfo) -> None:
    """Let `scorer` score one grey image of a data set's size.

    Raises:
        NbenchError: it fails, or gives something else than a score.
    """
    grey = torch.full((1, 3, *info.image_size), 0.5)
    finished = PositionInfo(info.steps, None, 0.0, 1.0)
    AppliedScorer(scorer).score(Rows(["grey"], [0], {PROMPT: ["a grey image"]}), finished, lambda part: grey[part])
