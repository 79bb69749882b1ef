"""What a page is made of: results of one bench, their raw scores, and the bench's references."""

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
    """Results of one build of a bench, a model each, by name; `left_out` says which files are none, and why."""

    results: tuple[tuple[Path, EvaluationResult], ...]
    left_out: tuple[str, ...]

    @property
    def first(self) -> EvaluationResult:
        """The one by which to tell what all have in common."""
        return self.results[0][1]

    def positions(self) -> tuple[int, ...]:
        """Those at which any model was scored."""
        return tuple(sorted({row.position for _, result in self.results for row in result.rows}))


@dataclass(frozen=True)
class Scored:
    """Scores of P prompts' candidates [P, N], NaN where there are none: by model and position, and by reference."""

    models: dict[str, dict[int, Array]]
    references: dict[str, Array]


def gather(places: Sequence[Path]) -> Inputs:
    """Read results: files, and all that lie in folders.

    Raises:
        NbenchError: none there, a named file that is none, several benches or builds, or a model twice.
    """
    found: dict[Path, EvaluationResult] = {}
    left_out = []
    for place in places:
        if not place.is_dir():
            found[place] = read_result(place)
            continue
        for path in sorted(place.rglob("*.json")):
            try:
                found[path] = read_result(path)
            except NbenchError as error:
                left_out.append(str(error))
    if not found:
        raise NbenchError(f"no results in {', '.join(map(str, places))}: run nbench evaluate")
    builds = {(result.bench, result.bench_fingerprint) for result in found.values()}
    if len(builds) > 1:
        named = ", ".join(sorted(f"{bench}@{fingerprint[:8]}" for bench, fingerprint in builds))
        raise NbenchError(f"a page shows one bench, and these are of {len(builds)} ({named}): name the files of one")
    models = [result.model for result in found.values()]
    for model in models:
        if models.count(model) > 1:
            raise NbenchError(f"there are {models.count(model)} results of {model}: name the one to show")
    ordered = sorted(found.items(), key=lambda item: item[1].model)
    return Inputs(tuple(ordered), tuple(left_out))


def bench_of(inputs: Inputs, named: str | None) -> Bench | None:
    """The bench named, or the one under data/ that the results name, None if that is not there.

    Raises:
        NbenchError: it is not the one that was evaluated.
    """
    usual = Path("data") / Path(inputs.first.bench).name
    if named is None and not (usual / INFO_FILE).exists():
        return None
    bench = open_bench(named if named is not None else usual)
    if bench.info.fingerprint != inputs.first.bench_fingerprint:
        raise NbenchError(
            f"{bench.location.url} is another build than the results' {inputs.first.bench}: name theirs with --bench"
        )
    return bench


def scored(inputs: Inputs, bench: Bench, prompt_ids: Sequence[str]) -> Scored:
    """The raw scores and references of some prompts.

    Raises:
        NbenchError: score tables gone or of another run.
    """
    ids = pa.array(prompt_ids, pa.string())
    layout = Layout.of_bench(ids, bench.info.candidates)
    models = {result.model: of_prompts(raw_scores(path, result, bench), layout) for path, result in inputs.results}
    return Scored(models, final_references(bench, layout))
