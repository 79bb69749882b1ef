"""Recovered gain on a bench while a model trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice

import numpy as np

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
Key = tuple[str, int]


def gain_on(config: FineTuneConfig, positions: Sequence[int]) -> Callable[[Scorer], float] | None:
    """The recovered gain of a scorer on `config.bench`, mean over some of `positions`; None without a bench.

    Selection among finished images, which counts as 1, is by the reference `clip`.

    Raises:
        NbenchError: the bench lacks a reference, or has none of the positions.
    """
    if config.bench is None:
        return None
    bench = open_bench(config.bench)
    common = [k for k in positions if k in bench.info.stored]
    if not common:
        raise NbenchError(f"{config.bench} has none of the positions {config.positions} to evaluate on: name another")
    at = sorted({common[round(place)] for place in np.linspace(0, len(common) - 1, _POSITIONS + 1)[1:]})
    reference, final = (
        scores_at(finished_scores(bench, name), bench.info.steps) for name in (config.bench_reference, "clip")
    )
    return partial(_gain, bench, at, config.bench_prompts, reference, final)


def _gain(
    bench: Bench,
    positions: Sequence[int],
    prompts: int,
    reference: dict[Key, float],
    final: dict[Key, float],
    scorer: Scorer,
) -> float:
    run, inputs = applied(bench, scorer, ScoreOptions()), BenchInputs(bench, scorer.reads)
    infos = {info.position: info for info in bench.info.positions}
    names = [prompt.prompt_id for prompt in islice(bench.prompts, prompts)]
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

    def table(values: dict[Key, float]) -> np.ndarray:
        return np.array([[values.get((name, n), np.nan) for n in range(bench.info.candidates)] for name in names])

    judged = table(reference)
    random, best = float(np.nanmean(random_pick(judged))), float(np.nanmean(best_of_n(table(final), judged)))
    selected = np.array([np.nanmean(best_of_n(each, judged)) for each in scores])
    return float(np.mean(recovered_gain(selected, random, best)))


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
