"""Recovered gain on a bench while a model trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice

import numpy as np

from ..benchmarks.metrics import Array
from ..benchmarks.metrics.model_figures import YARDSTICK
from ..benchmarks.metrics.selection import best_of_n, random_pick, recovered_gain
from ..benchmarks.scoring.inputs import BenchInputs, applied
from ..benchmarks.scoring.options import ScoreOptions
from ..errors import NbenchError
from ..scorers.apply import Rows
from ..scorers.protocols import Scorer
from ..shards.reader import Bench, open_bench
from ..shards.references import finished_scores
from ..shards.schema import TrajectoryBatch
from ..shards.scores import PROMPT, scores_at
from ..shards.stream import AS_STORED
from .config import FineTuneConfig

_POSITIONS = 4
"""Positions to evaluate at, evenly spread over those trained on."""


def gain_on(config: FineTuneConfig, positions: Sequence[int]) -> Callable[[Scorer], float] | None:
    """The recovered gain of a scorer on `config.bench`, mean over some of `positions`; None without a bench.

    Selection among finished images, which counts as 1, is by the reference `clip`.

    Raises:
        NbenchError: the bench lacks a reference, has none of the positions, or no gain to recover.
    """
    if config.bench is None:
        return None
    bench = open_bench(config.bench)
    common = [k for k in positions if k in bench.info.stored]
    if not common:
        raise NbenchError(f"{config.bench} has none of the positions {config.positions} to evaluate on: name another")
    at = sorted({common[round(place)] for place in np.linspace(0, len(common) - 1, _POSITIONS + 1)[1:]})
    names = [prompt.prompt_id for prompt in islice(bench.prompts, config.bench_prompts)]
    judged, final = (_table(bench, name, names) for name in (config.bench_reference, YARDSTICK))
    random, best = (_mean(values) for values in (random_pick(judged), best_of_n(final, judged)))
    if not best > random or np.isnan(recovered_gain(best, random, best)):
        raise NbenchError(
            f"{config.bench} has no gain to recover: on its first {len(names)} prompts, final images that {YARDSTICK} "
            f"picks have {config.bench_reference} {best:.3g}, random ones {random:.3g}; change --bench, "
            "--bench-reference or --bench-prompts"
        )

    def gain(scorer: Scorer) -> float:
        selected = np.array([_mean(best_of_n(each, judged)) for each in _scores(bench, at, names, scorer)])
        return float(np.mean(recovered_gain(selected, random, best)))

    return gain


def _scores(bench: Bench, positions: Sequence[int], names: Sequence[str], scorer: Scorer) -> Array:
    """Scores float [K, P, N] at K positions of the candidates of the prompts `names`."""
    run, inputs = applied(bench, scorer, ScoreOptions()), BenchInputs(bench, scorer.reads)
    infos = {info.position: info for info in bench.info.positions}
    place = {name: number for number, name in enumerate(names)}
    scores = np.full((len(positions), len(names), bench.info.candidates), np.nan)
    for batch in _batches(bench, inputs, positions, set(names)):
        kept = [row for row, name in enumerate(batch.prompt_ids) if name in place]
        rows = Rows(batch.prompt_ids, batch.candidates, {PROMPT: batch.prompts})
        for number, position in enumerate(positions):
            signal = partial(inputs.recorded, batch, position)
            values = run.score(rows, infos[position], signal).by_caption[PROMPT].numpy()
            for row in kept:
                scores[number, place[batch.prompt_ids[row]], batch.candidates[row]] = values[row]
    return scores


def _table(bench: Bench, reference: str, names: Sequence[str]) -> Array:
    """Scores float [P, N] of the final images by a reference, NaN where there is none."""
    scores = scores_at(finished_scores(bench, reference), bench.info.steps)
    return np.array([[scores.get((name, n), np.nan) for n in range(bench.info.candidates)] for name in names])


def _mean(values: Array) -> float:
    """Over the prompts that have a value; NaN without one."""
    return float(values[np.isfinite(values)].mean()) if np.isfinite(values).any() else np.nan


def _batches(
    bench: Bench, inputs: BenchInputs, positions: Sequence[int], wanted: set[str]
) -> Iterator[TrajectoryBatch]:
    """Batches from the start until all candidates of the wanted prompts were read."""
    left = len(wanted) * bench.info.candidates
    columns = inputs.columns_at(positions)
    for batch in bench.batches(columns, inputs.images, 256, AS_STORED, signals=inputs.signals):
        yield batch
        left -= sum(name in wanted for name in batch.prompt_ids) + batch.failed
        if left <= 0:
            return
