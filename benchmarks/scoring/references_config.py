"""The references to add to a data set."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from ...errors import NbenchError
from ...options import Argument, Fields, Option, Place, words
from ...scorers.placement import Placement
from .options import ScoreOptions


@dataclass(frozen=True)
class AddConfig:
    """The references to add to a data set; replace: replace existing tables of other scorers.

    Attributes:
        references: each NAME=SCORER, or SCORER.
        placement: device and dtype of scorers; None for a GPU if available.

    Raises:
        NbenchError: `replace` without references.
    """

    bench: Annotated[Place, Argument("Data set: folder, URL or Hub id; with --add, a folder or URL.")]
    references: Annotated[
        tuple[str, ...],
        Option(
            "Score the finished images with SCORER, or NAME=SCORER: any scorer of images; repeatable.",
            flag="--add",
            text=list[str] | None,
            parse=words,
        ),
    ] = ()
    replace: Annotated[bool, Option("Replace the scores of a NAME that another scorer made.")] = False
    placement: Annotated[Placement | None, Fields(made_by=Placement.wanted)] = None
    options: Annotated[ScoreOptions, Fields(without=("captions", "preview", "vae", "ahead"))] = field(
        default_factory=lambda: ScoreOptions(ahead=1)
    )

    def __post_init__(self) -> None:
        if self.replace and not self.references:
            raise NbenchError("--replace needs --add: give NAME=SCORER to score with")
