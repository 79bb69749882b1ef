"""Results as a pull request to a leaderboard, a data set on the Hub: checked against their own scores first."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...errors import NbenchError
from ...shards.hub.package import PublishedFile
from ...shards.hub.upload import WritableRepo
from ..metrics.arrays import mean_over_prompts
from .groups import prompt_values, reference_file
from .result_file import EvaluationResult, read_result

CHECKED = ("spearman", "best_of_n")
_CLOSE = 1e-6
"""Figures are recomputed from float64 scores, so only the order of sums differs."""


@dataclass(frozen=True)
class Submission:
    """Checked results, and the files of the pull request: `results/<bench>-<fingerprint>/...`."""

    results: tuple[EvaluationResult, ...]
    files: tuple[PublishedFile, ...]

    @property
    def title(self) -> str:
        """What the pull request is called."""
        models = ", ".join(result.model for result in self.results)
        return f"Results of {models} on {', '.join(sorted({result.bench for result in self.results}))}"


def read_submission(folder: Path) -> Submission:
    """Check the results in a folder: provenance is complete, and figures are those of the scores beside them.

    Raises:
        NbenchError: no results, or one that is damaged, lacks its scores or references, or states other figures.
    """
    paths = sorted(folder.rglob("*.json")) if folder.is_dir() else [folder]
    if not paths:
        raise NbenchError(f"no results in {folder}: run nbench evaluate")
    results, files = [], dict[str, PublishedFile]()
    for path in paths:
        result = read_result(path)
        if flaw := next(_flaws(path, result), None):
            raise NbenchError(f"{path} {flaw}: run nbench evaluate again")
        results.append(result)
        place = f"results/{result.bench}-{result.bench_fingerprint[:8]}"
        beside = [reference_file(path.parent, label) for label in result.yardsticks]
        for file in (path, path.with_suffix(".parquet"), *beside):
            name = f"{place}/{file.relative_to(path.parent).as_posix()}"
            files[name] = PublishedFile(name, file, file.stat().st_size, _sha256(file))
    return Submission(tuple(results), tuple(files.values()))


def submit(submission: Submission, repo_id: str) -> str:
    """Open a pull request with the results; its address.

    Raises:
        NbenchError: no token, no such leaderboard, or the Hub does not answer.
    """
    about = "\n".join(
        f"- {result.model} (`{result.model_fingerprint[:12]}`) on {result.bench} (`{result.bench_fingerprint[:12]}`), "
        f"by nbench {result.provenance.nbench}"
        for result in submission.results
    )
    return WritableRepo(repo_id, "dataset", "main", 4).propose(submission.files, submission.title, about)


def _flaws(path: Path, result: EvaluationResult) -> Iterator[str]:
    origin = result.provenance
    if not (origin.started and origin.packages):
        yield "does not say when and with which packages it was made"
    for row in result.rows:
        for figure in CHECKED:
            stated, values = getattr(row, figure), prompt_values(path, result, row.reference, row.position, figure)
            if values is None:
                yield f"lacks its scores, or the scores of reference {row.reference}, beside it"
                return
            computed = float(mean_over_prompts(values[:, None])[0])
            if (stated is None) != (computed != computed) or (stated is not None and abs(stated - computed) > _CLOSE):
                yield (
                    f"states {figure} {stated} at position {row.position} against {row.reference}, "
                    f"but its scores give {computed:.6f}"
                )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
