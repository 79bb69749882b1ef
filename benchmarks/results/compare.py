"""Two models on one bench: differences paired by prompt, from their raw scores, with Holm's correction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...console import table_text
from ...errors import NbenchError
from ...shards.reader import Bench
from ...shards.references import no_reference
from .. import metrics
from ..metrics import Array
from ..metrics.declaration import or_none
from ..metrics.model_figures import YARDSTICK, checked_yardstick, final_chooser
from ..metrics.statistics import bootstrap_means, holm, percentiles
from ..score_tables.bench import final_references, raw_scores
from ..score_tables.layout import Layout, of_prompts
from .place import local_results
from .result_file import EvaluationResult, read_result

COMPARED = ("spearman", "best_of_n", "recovered_gain")


@dataclass(frozen=True)
class Difference:
    """A metric of model A, of model B, and A minus B over the prompts that both have, with its 95 % interval.

    p_value: two-sided, from the draws of the interval; p_holm: corrected by Holm's method over the positions. Without
    raw scores only a, b and difference are set.
    """

    position: int
    reference: str
    metric: str
    a: float | None
    b: float | None
    difference: float | None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    p_holm: float | None = None


@dataclass(frozen=True, repr=False)
class ModelComparison:
    """Model `a` against `b` on `bench`; note: why there are no intervals, "" if there are."""

    bench: str
    a: str
    b: str
    rows: tuple[Difference, ...]
    note: str = ""

    def __repr__(self) -> str:
        from .terminal import digest_table

        return "\n".join([table_text(digest_table(self)), *([self.note] if self.note else [])])


def find_result(name: str, results: Path) -> Path:
    """The result file called `name`: a path, or `model` or `bench/model` under `results`.

    Raises:
        NbenchError: no such file, or several.
    """
    if "://" in name:
        return local_results(name)
    if Path(name).is_file():
        return Path(name)
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise NbenchError(f"no result at {name}: run nbench evaluate")
    folders = [results, *sorted(path for path in results.iterdir() if path.is_dir())] if results.is_dir() else []
    paths = [path for folder in folders if (path := folder / f"{name}.json").is_file()]
    if not paths:
        raise NbenchError(
            f"no result {name!r}: not a file, and not in {results}; run nbench evaluate, or give --results"
        )
    if len(paths) > 1:
        benches = ", ".join(f"{path.parent.name}/{name}" for path in paths)
        raise NbenchError(f"{name!r} has results on several benches: name one of {benches}")
    return paths[0]


def compare_results(
    a: Path, b: Path, bench: Bench | None, reference: str | None = None, yardstick: str | None = None
) -> ModelComparison:
    """Compare two result files at their common positions.

    With the bench, the scores are measured again against its references, which gives intervals and tests.

    Args:
        reference: the only one to compare on. Default: all.
        yardstick: the reference for final-image selection. Default: that of both results.

    Raises:
        NbenchError: different benches, nothing in common, no such reference, two different yardsticks, or score tables
            missing or of another run.
    """
    ours, theirs = read_result(a), read_result(b)
    _same_bench(ours, theirs, a, b)
    labels = [label for label in ours.yardsticks if label in theirs.yardsticks]
    if reference is not None and reference not in labels:
        raise NbenchError(f"no reference {reference!r} in both results: there are {', '.join(labels) or 'none'}")
    labels = labels if reference is None else [reference]
    if bench is None:
        if yardstick is not None:
            raise NbenchError("--yardstick needs the references of the bench: give --bench")
        for label in labels:
            _chooser(ours, theirs, label, None)
        rows = tuple(_stated(ours, theirs, labels))
        note = f"no intervals: the references of {ours.bench} are not available; give the bench with --bench"
        return ModelComparison(ours.bench, ours.model, theirs.model, _any(rows), note)
    if bench.info.fingerprint != ours.bench_fingerprint:
        raise NbenchError(
            f"{bench.location.url} is not the build of {ours.bench} that the results are of: evaluate it again"
        )
    tables = [raw_scores(path, result, bench) for path, result in ((a, ours), (b, theirs))]
    ids = pc.unique(pa.chunked_array([table.prompts.dictionary for table in tables]))
    layout = Layout.of_bench(ids, bench.info.candidates)
    first, second = (of_prompts(table, layout) for table in tables)
    references = final_references(bench, layout)
    if yardstick is not None:
        checked_yardstick(yardstick, references, bench.location.url)
    absent = [label for label in labels if label not in references]
    if absent:
        raise no_reference(bench, absent[0])
    choosers = {label: _chooser(ours, theirs, label, yardstick) for label in labels}
    rows = tuple(row for label, by in choosers.items() for row in _measured(first, second, references, label, by))
    return ModelComparison(ours.bench, ours.model, theirs.model, _any(rows))


def _chooser(ours: EvaluationResult, theirs: EvaluationResult, label: str, yardstick: str | None) -> str:
    """What final-image selection goes by: the reference `yardstick`, else that of both results."""
    choosers = sorted({mark.chooser for side in (ours, theirs) if (mark := side.yardsticks[label]).chooser})
    if yardstick is None and len(choosers) > 1:
        raise NbenchError(
            f"final-image selection goes by {choosers[0]} in one result and by {choosers[1]} in the other: choose a "
            "reference with --yardstick, or evaluate both again"
        )
    return yardstick or (choosers[0] if choosers else YARDSTICK)


def _measured(
    ours: Mapping[int, Array], theirs: Mapping[int, Array], references: Mapping[str, Array], label: str, by: str
) -> Iterator[Difference]:
    reference = references[label]
    chooser, _ = final_chooser(references, None, by)
    random, final = metrics.random_pick(reference), metrics.best_of_n(chooser, reference)
    positions = [position for position in ours if position in theirs]
    for metric in COMPARED:
        columns = []  # per position: ours, theirs, and for recovered gain also random and final
        for position in positions:
            sides = [side[position] for side in (ours, theirs)]
            if metric == "spearman":
                cells = np.stack([metrics.spearman(side, reference) for side in sides])
            else:
                cells = np.stack([metrics.best_of_n(side, reference) for side in sides])
            if metric == "recovered_gain":
                cells = np.concatenate([cells, [random, final]])
            columns.append(np.where(np.isfinite(cells).all(0), cells, np.nan))
        if not columns:
            return
        yield from _tested(np.concatenate(columns).T, metric, positions, label)


def _tested(values: Array, metric: str, positions: list[int], label: str) -> Iterator[Difference]:
    """Differences at K positions from values [P, K * 2], or [P, K * 4] for recovered gain."""
    means = metrics.mean_over_prompts(values).reshape(len(positions), -1)
    means_of_draws = bootstrap_means(values).reshape(-1, *means.shape)
    a, b = (_figure(metric, means, side) for side in (0, 1))
    draws = _figure(metric, means_of_draws, 0) - _figure(metric, means_of_draws, 1)  # [R, K]
    low, high = percentiles(draws)
    tail = np.minimum((draws <= 0).sum(0), (draws >= 0).sum(0))
    p_values = np.where(np.isfinite(draws).all(0), np.minimum(1, 2 * (tail + 1) / (len(draws) + 1)), np.nan)
    for k, figures in enumerate(zip(a, b, a - b, low, high, p_values, holm(p_values), strict=True)):
        yield Difference(positions[k], label, metric, *map(or_none, figures))


def _figure(metric: str, means: Array, side: int) -> Array:
    """The metric of one side, [..., K], from means [..., K, 2 or 4]."""
    if metric != "recovered_gain":
        return means[..., side]
    return metrics.recovered_gain(means[..., side], means[..., 2], means[..., 3])


def _stated(ours: EvaluationResult, theirs: EvaluationResult, labels: list[str]) -> Iterator[Difference]:
    sides = [{(row.reference, row.position): row for row in side.rows} for side in (ours, theirs)]
    for label, metric in product(labels, COMPARED):
        for (reference, position), row in sides[0].items():
            other = sides[1].get((reference, position))
            if other is not None and reference == label:
                a, b = getattr(row, metric), getattr(other, metric)
                yield Difference(position, label, metric, a, b, None if a is None or b is None else a - b)


def _same_bench(ours: EvaluationResult, theirs: EvaluationResult, a: Path, b: Path) -> None:
    if ours.bench_fingerprint != theirs.bench_fingerprint:
        why = "two builds of" if ours.bench == theirs.bench else f"{ours.bench} and {theirs.bench}, not"
        raise NbenchError(f"{a} and {b} are of {why} one bench: evaluate both models on the same")


def _any(rows: tuple[Difference, ...]) -> tuple[Difference, ...]:
    if not rows:
        raise NbenchError("the results have no position in common: evaluate both at the same --latents")
    return rows
