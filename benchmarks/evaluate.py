"""Evaluate models on a bench: score it, measure the scores against the references, write the results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .. import __version__
from ..errors import NbenchError
from ..scorers.protocols import Scorer
from ..scorers.registry import get_scorer
from ..shards.reader import Bench, open_bench
from ..shards.scores import scores_metadata, write_scores
from . import metrics
from .metrics import Array
from .results import Comparison, EvaluationResult, ResultRow, Yardstick, result_path, write_result
from .scoring import Progress, score_bench, score_metadata
from .statistics import paired_difference

YARDSTICK = "clip"
"""The reference that final-image selection goes by: frozen CLIP on finished images, as in the paper."""

ModelScores = dict[int, Array]
"""Scores float [P, N] of one model by position; prompts in the order of the bench, NaN where there is none."""


@dataclass(frozen=True)
class EvaluateConfig:
    """What to evaluate: `models` by name, folder or Hub id, at the positions `latents` and at the final one."""

    bench: str | Path
    models: tuple[str, ...] = ("clip", "noisyclip")
    latents: str = "all"
    out: Path = Path("results")


@dataclass(frozen=True)
class EvaluationReport:
    """The outcome for all models; `files` are the results written."""

    bench: str
    n_prompts: int
    n_candidates: int
    n_failed: int
    steps: int
    rows: tuple[ResultRow, ...]
    comparisons: tuple[Comparison, ...]
    yardsticks: dict[str, Yardstick]
    files: tuple[Path, ...]

    def to_json(self) -> str:
        """The one object that `nbench evaluate --json` prints."""
        return json.dumps(
            {
                "bench": self.bench,
                "n_prompts": self.n_prompts,
                "n_candidates": self.n_candidates,
                "rows": [row.model_dump() for row in self.rows],
            }
        )


def evaluate(config: EvaluateConfig, progress: Progress | None = None) -> EvaluationReport:
    """Score, measure and write `<out>/<bench>/<model>.json` with the raw scores as `.parquet` beside it.

    Raises:
        NbenchError: no such bench, model, or position in it; no references; or `out` cannot be written.
    """
    bench = open_bench(config.bench)
    info, name = bench.info, bench.name
    positions = sorted({*bench.select(config.latents), info.steps})
    references, fingerprints = _read_references(bench)
    scorers = _load(config.models, bench)
    scores: dict[str, ModelScores] = {}
    for model, scorer in scorers.items():
        table = score_bench(bench, scorer, positions, progress)
        write_scores(result_path(config.out, name, model, ".parquet"), table, score_metadata(bench.info, scorer))
        scores[model] = _by_position(table, bench)
    rows = measure(scores, references, info.steps)
    comparisons = compare(scores, references)
    yardsticks = {label: yardstick(references, label) for label in references}
    files = []
    for model, scorer in scorers.items():
        result = EvaluationResult(
            nbench_version=__version__,
            bench=name,
            bench_fingerprint=info.fingerprint,
            model=model,
            model_fingerprint=scorer.fingerprint,
            reference_fingerprints=fingerprints,
            n_prompts=info.n_prompts,
            n_candidates=info.candidates,
            n_failed=bench.n_failed,
            steps=info.steps,
            yardsticks=yardsticks,
            rows=tuple(row for row in rows if row.model == model),
            comparisons=tuple(row for row in comparisons if model in (row.model, row.other)),
        )
        files.append(result_path(config.out, name, model))
        write_result(files[-1], result)
    return EvaluationReport(
        bench=name,
        n_prompts=info.n_prompts,
        n_candidates=info.candidates,
        n_failed=bench.n_failed,
        steps=info.steps,
        rows=rows,
        comparisons=comparisons,
        yardsticks=yardsticks,
        files=tuple(files),
    )


def measure(scores: Mapping[str, ModelScores], references: Mapping[str, Array], steps: int) -> tuple[ResultRow, ...]:
    """Every metric of every model at every position against every reference (float [P, N], of the final images)."""
    return tuple(
        _measure_one(model, position, label, values, references, steps)
        for model, by_position in scores.items()
        for position, values in by_position.items()
        for label in references
    )


def _measure_one(
    model: str, position: int, label: str, values: Array, references: Mapping[str, Array], steps: int
) -> ResultRow:
    reference = references[label]
    picks = np.stack([metrics.best_of_n(values, reference), *_yardstick_picks(references, label)])
    whole = np.where(np.isfinite(picks).all(0), picks, np.nan)  # ratios of means need the same prompts in each
    selected, random, final = metrics.mean_over_prompts(whole.T)
    return ResultRow(
        model=model,
        position=position,
        reference=label,
        spearman=_mean(metrics.spearman(values, reference)),
        kendall=_mean(metrics.kendall(values, reference)),
        gap=_mean(metrics.best_worst_gap(values, reference)),
        best_of_n=_mean(picks[0]),
        retention=_known(metrics.retention(selected, final)),
        recovered_gain=_known(metrics.recovered_gain(selected, random, final)),
        cost_steps=metrics.cost_steps(values.shape[1], position, steps),
        n_scored=int((np.isfinite(values) & np.isfinite(reference)).sum()),
    )


def compare(scores: Mapping[str, ModelScores], references: Mapping[str, Array]) -> tuple[Comparison, ...]:
    """Paired differences of within-prompt Spearman between all models, later minus earlier, at common positions."""
    found = []
    for (other, theirs), (model, ours) in combinations(scores.items(), 2):
        common = [position for position in ours if position in theirs]
        cells = [(position, label) for label in references for position in common]
        if not cells:
            continue
        ours_agree, theirs_agree = (
            np.stack([metrics.spearman(side[position], references[label]) for position, label in cells], axis=1)
            for side in (ours, theirs)
        )
        intervals = zip(*paired_difference(ours_agree, theirs_agree), strict=True)
        for (position, label), interval in zip(cells, intervals, strict=True):
            difference, low, high = map(_known, interval)
            found.append(
                Comparison(
                    model=model,
                    other=other,
                    position=position,
                    reference=label,
                    difference=difference,
                    low=low,
                    high=high,
                )
            )
    return tuple(found)


def yardstick(references: Mapping[str, Array], label: str) -> Yardstick:
    """What a random pick and final-image selection reach on the reference `label`."""
    random, final = _yardstick_picks(references, label)
    return Yardstick(random=_mean(random), final=_mean(final))


def _yardstick_picks(references: Mapping[str, Array], label: str) -> tuple[Array, Array]:
    reference = references[label]
    chooser = references.get(YARDSTICK, np.full_like(reference, np.nan))
    return metrics.random_pick(reference), metrics.best_of_n(chooser, reference)


def _load(models: Sequence[str], bench: Bench) -> dict[str, Scorer]:
    scorers: dict[str, Scorer] = {}
    for model in dict.fromkeys(models):
        scorer = get_scorer(model, bench.info)
        if scorer.name in scorers:
            raise NbenchError(f"two models are called {scorer.name}, and so would be their results: rename a folder")
        scorers[scorer.name] = scorer
    return scorers


def _read_references(bench: Bench) -> tuple[dict[str, Array], dict[str, str]]:
    arrays, fingerprints = {}, {}
    for name, table in bench.references.items():
        origin = scores_metadata(table)
        if origin.get("bench_fingerprint") != bench.info.fingerprint:
            raise NbenchError(
                f"scores/{name}.parquet of {bench.location.url} scores another build: remove it, or build with --fresh"
            )
        by_position = _by_position(table, bench)
        if bench.info.steps in by_position:
            arrays[name] = by_position[bench.info.steps]
            fingerprints[name] = origin["scorer_fingerprint"]
    if not arrays:
        raise NbenchError(
            f"no references at {bench.location.url}/scores: run its nbench build again with --references clip,vqascore"
        )
    return arrays, fingerprints


def _by_position(table: pa.Table, bench: Bench) -> ModelScores:
    prompts = pc.index_in(table["prompt_id"], pa.array([prompt.prompt_id for prompt in bench.prompts])).to_numpy()
    candidates, positions, values = (table[name].to_numpy() for name in ("candidate", "position", "score"))
    arrays = {}
    for position in np.unique(positions).tolist():
        rows = positions == position
        arrays[position] = np.full((len(bench.prompts), bench.info.candidates), np.nan)
        arrays[position][prompts[rows], candidates[rows]] = values[rows]
    return arrays


def _mean(values: Array) -> float | None:
    return _known(metrics.mean_over_prompts(values))


def _known(value: Array) -> float | None:
    return float(value) if np.isfinite(value) else None
