"""The reference scores that a bench gets at the end of its build."""

from __future__ import annotations

from collections.abc import Sequence

from ..benchmarks.scoring import score_metadata, score_references
from ..errors import NbenchError
from ..scorers.registry import REFERENCES, get_reference
from ..shards.dataset import DatasetFolder
from ..shards.schema import DatasetInfo
from ..shards.scores import read_scores, reference_path, scores_metadata
from .progress import BuildProgress


def check_names(names: Sequence[str] | None) -> None:
    """Refuse names that no reference has.

    Raises:
        NbenchError: naming the first.
    """
    for name in names or ():
        if name not in REFERENCES:
            raise NbenchError(f"unknown reference {name}: there are {', '.join(REFERENCES)}")


def fitting_references(names: Sequence[str] | None, info: DatasetInfo, progress: BuildProgress) -> Sequence[str]:
    """The references to score: those named; with None all, or none where they do not fit the pipeline's images.

    Raises:
        NbenchError: a reference that was asked for does not fit.
    """
    wanted = REFERENCES if names is None else names
    try:
        for name in wanted:
            get_reference(name, info)
    except NbenchError as error:
        if names is not None:
            raise
        progress.say(f"no reference scores: {error}")
        return ()
    return wanted


def score_missing(names: Sequence[str] | None, folder: DatasetFolder, shown: bool) -> None:
    """Score the final images by each reference that has no table of this data set by its present weights."""

    def current(name: str) -> bool:
        path = reference_path(folder.path, name)
        if not path.exists():
            return False
        try:
            wanted = score_metadata(folder.info, get_reference(name, folder.info))
        except NbenchError:  # a reference that does not fit is dealt with below
            return False
        return scores_metadata(read_scores(path)) == wanted

    wanted = [name for name in (REFERENCES if names is None else names) if not current(name)]
    if wanted:
        with BuildProgress("references", folder.info.rows * len(wanted), shown=shown) as progress:
            fitting = fitting_references(names, folder.info, progress)
            score_references(
                folder.path, [name for name in wanted if name in fitting], lambda _, n: progress.advance(n)
            )
