"""Evaluate models on a bench: score it, measure the scores against the references, write the results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import NbenchError
from ..scorers.protocols import Scorer
from ..scorers.registry import get_scorer
from ..shards.reader import Bench, open_bench
from ..shards.scores import scores_metadata, write_scores
from .measure import compare, measure, yardstick
from .metrics import Array
from .part import ModelScores, Setting
from .provenance import provenance
from .results import EvaluationReport, EvaluationResult, result_path, write_result
from .scoring import Progress, score_bench, score_metadata


@dataclass(frozen=True)
class EvaluateConfig:
    """What to evaluate: `models` by name, folder or Hub id, at the positions `latents` and at the final one."""

    bench: str | Path
    models: tuple[str, ...] = ("clip", "noisyclip")
    latents: str = "all"
    out: Path = Path("results")


def evaluate(config: EvaluateConfig, progress: Progress | None = None) -> EvaluationReport:
    """Score, measure and write `<out>/<bench>/<model>.json` with the raw scores as `.parquet` beside it.

    Raises:
        NbenchError: no such bench, model, or position in it; no references; or `out` cannot be written.
    """
    started = datetime.now(UTC)
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
    tags = [prompt.tags for prompt in bench.prompts]
    found = measure(scores, references, Setting(info.steps, tags=tags))
    comparisons = compare(scores, references)
    yardsticks = {label: yardstick(references, label) for label in references}
    files, origin = [], provenance(started)
    for model, scorer in scorers.items():
        own, last = found.of(model), scores[model].get(info.steps)
        result = EvaluationResult(
            provenance=origin,
            bench=name,
            bench_fingerprint=info.fingerprint,
            model=model,
            model_fingerprint=scorer.fingerprint,
            reference_fingerprints=fingerprints,
            n_prompts=info.n_prompts,
            n_candidates=info.candidates,
            n_failed=bench.n_failed,
            steps=info.steps,
            yardsticks={label: yardstick(references, label, last) for label in references},
            rows=tuple(own.rows),
            selection=tuple(own.selection),
            skills=tuple(own.skills),
            summaries=tuple(own.summaries),
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
        rows=tuple(found.rows),
        comparisons=comparisons,
        yardsticks=yardsticks,
        files=tuple(files),
    )


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
