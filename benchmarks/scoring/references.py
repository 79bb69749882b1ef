"""The whole build of a data set: its trajectories and, of a bench, the reference scores of the final images."""

from __future__ import annotations

from collections.abc import Sequence

from ...builders.build import BuildReport
from ...builders.build import build as build_trajectories
from ...builders.config import BuildConfig
from ...errors import NbenchError
from ...progress import BuildProgress
from ...scorers.registry import REFERENCES, check_references, get_reference
from ...shards.dataset import DatasetFolder
from ...shards.schema import DatasetInfo
from ...shards.scores import read_scores, reference_path, scores_metadata
from .score import score_metadata, score_references


def build(config: BuildConfig, progress: bool = True) -> BuildReport:
    """Build the data set that `config` asks for, or finish it; on return it is complete, with its references.

    Raises:
        NbenchError: a file, folder, pipeline, reference or setting that the user must mend.
    """
    check_references(config.references or ())
    last = References(config.references, progress) if config.kind == "genai-bench" else None
    return build_trajectories(config, progress, last)


class References:
    """The reference scores of a bench, as the last step of its build: `names`, or with None all that fit."""

    def __init__(self, names: Sequence[str] | None, shown: bool) -> None:
        self._names, self._shown = names, shown

    def check(self, info: DatasetInfo, progress: BuildProgress) -> None:
        """Refuse a reference that was asked for and does not fit, before the long work.

        Raises:
            NbenchError: naming it.
        """
        self._fitting(info, progress)

    def run(self, folder: DatasetFolder) -> None:
        """Score the final images by each reference that has no table of this data set by its present weights.

        Raises:
            NbenchError: as for `check`.
        """
        wanted = [name for name in self._wanted if not _current(name, folder)]
        if wanted:
            with BuildProgress("references", folder.info.rows * len(wanted), shown=self._shown) as progress:
                fitting = self._fitting(folder.info, progress)
                names = [name for name in wanted if name in fitting]
                score_references(folder.path, names, lambda _, n: progress.advance(n))

    @property
    def _wanted(self) -> Sequence[str]:
        return REFERENCES if self._names is None else self._names

    def _fitting(self, info: DatasetInfo, progress: BuildProgress) -> Sequence[str]:
        try:
            for name in self._wanted:
                get_reference(name, info)
        except NbenchError as error:
            if self._names is not None:
                raise
            progress.say(f"no reference scores: {error}")
            return ()
        return self._wanted


def _current(name: str, folder: DatasetFolder) -> bool:
    path = reference_path(folder.path, name)
    if not path.exists():
        return False
    try:
        wanted = score_metadata(folder.info, get_reference(name, folder.info))
    except NbenchError:  # a reference that does not fit is dealt with by `check`
        return False
    return scores_metadata(read_scores(path)) == wanted
