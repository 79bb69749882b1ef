"""The inputs of a page: results of one bench, their raw scores, and the bench's references."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from ...errors import NbenchError
from ...shards.dataset import INFO_FILE
from ...shards.reader import Bench, open_bench
from ..metrics.arrays import Array
from ..results.result_file import EvaluationResult, read_result
from ..score_tables.bench import final_references, raw_scores
from ..score_tables.layout import Layout, of_prompts


@dataclass(frozen=True)
class Inputs:
    """Results of one build of a bench, sorted by model; left_out: which files are not results, and why."""

    results: tuple[tuple[Path, EvaluationResult], ...]
    left_out: tuple[str, ...]

    @property
    def first(self) -> EvaluationResult:
        """The first result, for the fields that are the same in all."""
        return self.results[0][1]

    def positions(self) -> tuple[int, ...]:
        """The positions with scores of at least one model."""
        return tuple(sorted({row.position for _, result in self.results for row in result.rows}))


@dataclass(frozen=True)
class Scored:
    """Scores [P, N] of P prompts' candidates, NaN where missing: by model and position, and by reference."""

    models: dict[str, dict[int, Array]]
    references: dict[str, Array]


def gather(places: Sequence[Path]) -> Inputs:
    """Read result files, and all results in folders.

    Raises:
        NbenchError: no results, a file that is not a result, several benches or builds, or a model twice.
    """
    results: dict[Path, EvaluationResult] = {}
    left_out = []
    for place in places:
        if not place.is_dir():
            results[place] = read_result(place)
            continue
        for path in sorted(place.rglob("*.json")):
            try:
                results[path] = read_result(path)
            except NbenchError as error:
                left_out.append(str(error))
    if not results:
        raise NbenchError(f"no results in {', '.join(map(str, places))}: run nbench evaluate")
    builds = {(result.bench, result.bench_fingerprint) for result in results.values()}
    if len(builds) > 1:
        names = ", ".join(sorted(f"{bench}@{fingerprint[:8]}" for bench, fingerprint in builds))
        raise NbenchError(
            f"a page shows one bench, and these results are of {len(builds)} ({names}): give the files of one"
        )
    models = [result.model for result in results.values()]
    for model in models:
        if models.count(model) > 1:
            raise NbenchError(f"there are {models.count(model)} results of {model}: give only the one to show")
    ordered = sorted(results.items(), key=lambda item: item[1].model)
    return Inputs(tuple(ordered), tuple(left_out))


def bench_of(inputs: Inputs, url: str | None) -> Bench | None:
    """The bench at `url`, else the one under data/ with the name in the results; None if it does not exist.

    Raises:
        NbenchError: it is another build than the evaluated one.
    """
    usual = Path("data") / Path(inputs.first.bench).name
    if url is None and not (usual / INFO_FILE).exists():
        return None
    bench = open_bench(url if url is not None else usual)
    if bench.info.fingerprint != inputs.first.bench_fingerprint:
        raise NbenchError(
            f"{bench.location.url} is not the build of {inputs.first.bench} that the results are of: give that one "
            "with --bench"
        )
    return bench


def scored(inputs: Inputs, bench: Bench, prompt_ids: Sequence[str]) -> Scored:
    """The raw scores and references of some prompts.

    Raises:
        NbenchError: score tables missing or of another run.
    """
    ids = pa.array(prompt_ids, pa.string())
    layout = Layout.of_bench(ids, bench.info.candidates)
    models = {result.model: of_prompts(raw_scores(path, result, bench), layout) for path, result in inputs.results}
    return Scored(models, final_references(bench, layout))
