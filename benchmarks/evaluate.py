"""Evaluate models on a bench: score it, measure the scores against the references, write the results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from ..builders.config import BuildConfig
from ..console import TextConsole, say
from ..errors import NbenchError
from ..jobs.engine import Engine, Here
from ..jobs.mirror import mirrored
from ..jobs.options import EngineOptions
from ..jobs.places import beneath, store_at
from ..options import Place
from ..scorers.placement import Placement
from ..scorers.protocols import Scorer
from ..scorers.registry import get_scorer, loaded
from ..scorers.weights import file_name, source_digest
from ..shards.dataset import INFO_FILE, read_info
from ..shards.reader import Bench, open_bench
from ..shards.references import how_to_add
from ..shards.scores import PROMPT, scores_metadata
from .build import build
from .evaluate_config import EvaluateConfig
from .metrics import Array
from .metrics.caption_figures import separation_rows
from .metrics.measure import compare, measure, yardstick
from .metrics.model_figures import YARDSTICK, Setting, checked_yardstick
from .results.groups import write_references
from .results.provenance import provenance
from .results.result_file import EvaluationReport, EvaluationResult, result_path, write_result
from .score_tables.bench import bench_layout, final_references
from .score_tables.layout import by_caption
from .score_tables.table import ScoreTable
from .scoring.card import Card, cards
from .scoring.inputs import BenchInputs
from .scoring.options import ScoreOptions
from .scoring.scorer_cost import scorer_cost, time_steps
from .scoring.store import Scored, Store, parts_beside
from .scoring.together import together


def evaluate(
    config: EvaluateConfig,
    progress: bool = False,
    objects: Sequence[Scorer] = (),
    workers: EngineOptions | None = None,
) -> EvaluationReport:
    """Score, measure and write `<out>/<bench>/<model>.json` with the raw scores as `.parquet` beside it.

    Existing scores of the same bench and scorer are reused; missing positions are added to them. The files hold the
    figures of all positions ever scored, the report those of `config.latents` and the final position. `progress`: show
    the progress on stderr. `objects`: scorers besides the named models. `workers`: who scores.

    Raises:
        NbenchError: no such bench, model or position; no references; `out` cannot be written; another evaluation is
            writing other scores of the same model and bench there; or `out` has scores of another model or bench of the
            name.
    """
    started, who = datetime.now(UTC), workers or EngineOptions()
    bench = _opened(config, progress)
    with mirrored(config.out, bench.name) as out:
        report = _evaluated(replace(config, out=out), bench, started, progress, objects, who, config.out)
    names = (path.relative_to(out).as_posix() for path in report.files)
    return replace(report, files=tuple(beneath(config.out, name) for name in names))


def score_share(config: EvaluateConfig, workers: EngineOptions, progress: bool = False) -> int:
    """Score the shards of this process's share, and measure nothing; how many shards are left to others.

    Raises:
        NbenchError: as `evaluate`; existing scores are to be discarded; or `out` cannot be shared.
    """
    if config.fresh:
        raise NbenchError("--fresh would discard the scores of other processes: remove them first, or leave it out")
    bench = _opened(config, progress)
    positions = sorted({*bench.select(config.latents), bench.info.steps})
    with mirrored(config.out, bench.name) as out:
        stores = _checked(replace(config, out=out), bench, positions, (), workers, config.out)
        tables = {model: store.sharing(positions) for model, store in stores.items()}
        return sum(together(tables, replace(workers.run(), retry_failed=True, shown=progress)).values())


def _opened(config: EvaluateConfig, progress: bool) -> Bench:
    bench = open_bench(config.bench or _default_bench(progress))
    if store_at(config.out).read(f"{bench.name}/{INFO_FILE}") is not None:
        folder = beneath(config.out, bench.name)
        raise NbenchError(f"{folder} is a data set, into which results would be written: choose another --out")
    return bench


def _evaluated(
    config: EvaluateConfig,
    bench: Bench,
    started: datetime,
    progress: bool,
    objects: Sequence[Scorer],
    workers: EngineOptions,
    place: Place,
) -> EvaluationReport:
    """`evaluate` with `config.out` on this machine, a mirror of `place` if that is a URL."""
    positions = sorted({*bench.select(config.latents), bench.info.steps})
    references = _read_references(bench)
    by, note = checked_yardstick(config.yardstick, references[0], bench.location.url)
    if note and progress:
        say(note, error=True)
    config, how = replace(config, yardstick=by), replace(workers.run(), retry_failed=True, shown=progress)
    stores = _checked(config, bench, positions, objects, workers, place)
    step_seconds = None
    if config.time_steps is not None:
        where, placement = bench.location.absolute, config.placement or Placement.wanted()
        step_seconds = how.engine.call(time_steps, where, config.time_steps, placement)
    tables = {model: store.scoring(positions, config.fresh, progress) for model, store in stores.items()}
    scored = together(tables, how)
    cards = {model: store.card for model, store in stores.items()}
    sources = {model: store.source for model, store in stores.items()}
    with TextConsole(stderr=True, quiet=not progress).status("measuring"):
        return _measured(config, bench, positions, cards, sources, scored, references, step_seconds, started)


def _checked(
    config: EvaluateConfig,
    bench: Bench,
    positions: Sequence[int],
    objects: Sequence[Scorer],
    workers: EngineOptions,
    place: Place,
) -> dict[str, Store]:
    """A store per model; what cannot be scored is refused before anything is."""
    placement, how = config.placement or Placement.wanted(), replace(workers.run(), retry_failed=True)
    if objects and not isinstance(how.engine, Here):
        raise NbenchError("scorer objects stay in this process: name models, or leave workers and devices out")
    options = replace(config.options, placement=placement.here() if isinstance(how.engine, Here) else placement)
    scorers, models = _load(config.models, objects, bench, options, how.engine)
    stores = {}
    for name, scorer in scorers.items():
        model, path = models[name], result_path(Path(config.out), bench.name, name, ".parquet")
        parts_at = beneath(place, parts_beside(path).relative_to(config.out).as_posix())
        source = None if model is None else source_digest(model)
        stores[name] = Store(path, bench, scorer, options, config.retrieval, source, model, how, parts_at)
    for model in sorted(stores):
        if not config.fresh:
            stores[model].check_owner()
    for store in stores.values():
        if config.fresh or store.missing(positions):
            BenchInputs(bench, store.scorer.reads)  # refuses a bench that lacks what the scorer reads
            if not isinstance(store.scorer, Card):
                loaded(store.scorer)  # all that will score, so that broken weights are refused before the work
    return stores


def _default_bench(progress: bool) -> Place:
    """The folder of the default bench; the embedded one is built or finished there if necessary."""
    config = BuildConfig("genai-bench")
    if not (Path(config.folder) / INFO_FILE).exists() or not read_info(config.folder).complete:
        console = TextConsole(stderr=True, quiet=not progress)
        console.print(
            f"no finished bench at {config.folder}: building it (nbench build genai-bench)",
            soft_wrap=True,
        )
        build(config, progress)
    return config.folder


def _measured(
    config: EvaluateConfig,
    bench: Bench,
    positions: Sequence[int],
    cards: dict[str, Card],
    sources: dict[str, str | None],
    scored: dict[str, Scored],
    reference_scores: tuple[dict[str, Array], dict[str, str]],
    step_seconds: float | None,
    started: datetime,
) -> EvaluationReport:
    info, name, (references, fingerprints) = bench.info, bench.name, reference_scores
    by, layout = config.yardstick or YARDSTICK, bench_layout(bench)
    captioned = {
        model: by_caption(ScoreTable.of(model_scores.table, f"the scores of {model}"), layout)
        for model, model_scores in scored.items()
    }
    scores = {model: of.pop(PROMPT) for model, of in captioned.items()}
    costs = {model: scorer_cost(card, scored[model].seconds, step_seconds) for model, card in cards.items()}
    extra = {model: cost.calls_per_score for model, cost in costs.items()}
    tags = [prompt.tags for prompt in bench.prompts]
    measures = measure(scores, references, Setting(info.steps, tags=tags, calls_per_score=extra, yardstick=by))
    comparisons = compare(scores, references)
    separation = {model: tuple(separation_rows(model, scores[model], of)) for model, of in captioned.items()}
    write_references(result_path(Path(config.out), name, "").parent, bench.references)
    files, origin = [], provenance(started)
    for model, card in cards.items():
        own, last = measures.of(model), scores[model].get(info.steps)
        result = EvaluationResult(
            provenance=origin.model_copy(update={"source": sources[model], "device": card.device}),
            bench=name,
            bench_fingerprint=info.fingerprint,
            model=model,
            model_fingerprint=card.fingerprint,
            reference_fingerprints=fingerprints,
            n_prompts=info.n_prompts,
            n_candidates=info.candidates,
            n_failed=bench.n_failed,
            steps=info.steps,
            yardsticks={label: yardstick(references, label, last, by=by) for label in references},
            rows=tuple(own.rows),
            selection=tuple(own.selection),
            separation=separation[model],
            retrieval=scored[model].retrieval,
            skills=tuple(own.skills),
            summaries=tuple(own.summaries),
            comparisons=tuple(row for row in comparisons if model in (row.model, row.other)),
            cost=costs[model],
        )
        files.append(result_path(Path(config.out), name, model))
        write_result(files[-1], result)
    shown = set(positions)
    return EvaluationReport(
        bench=name,
        n_prompts=info.n_prompts,
        n_candidates=info.candidates,
        n_failed=bench.n_failed,
        steps=info.steps,
        rows=tuple(row for row in measures.rows if row.position in shown),
        comparisons=tuple(row for row in comparisons if row.position in shown),
        yardsticks={label: yardstick(references, label, by=by) for label in references},
        files=tuple(files),
        separation=tuple(row for rows in separation.values() for row in rows if row.position in shown),
        retrieval=tuple(row for scores in scored.values() for row in scores.retrieval if row.position in shown),
        costs=costs,
    )


def _load(
    models: Sequence[str], objects: Sequence[Scorer], bench: Bench, options: ScoreOptions, engine: Engine
) -> tuple[dict[str, Scorer | Card], dict[str, str | None]]:
    """By the name of its results: each model's scorer, and what it was asked for by (None for an object).

    If others score, the card of each instead.
    """
    scorers: dict[str, Scorer | Card] = {}
    names: dict[str, str | None] = {}
    models = list(dict.fromkeys(models))
    found: Sequence[Scorer | Card | NbenchError]
    if isinstance(engine, Here):
        found = [get_scorer(model, bench.info, options.placement, False) for model in models]
    else:
        found = engine.call(cards, models, bench.location.absolute, options)
    for model, scorer in [*zip(models, found, strict=True), *((None, scorer) for scorer in objects)]:
        if isinstance(scorer, NbenchError):
            raise scorer
        if scorer.name != file_name(scorer.name):
            raise NbenchError(f"{scorer.name!r} cannot be the name of a result file: rename the scorer")
        if scorer.name in scorers:
            raise NbenchError(
                f"two models are called {scorer.name} and would overwrite each other's results: "
                "rename a folder, or change the `name` of a scorer of your own"
            )
        scorers[scorer.name], names[scorer.name] = scorer, model
    return scorers, names


def _read_references(bench: Bench) -> tuple[dict[str, Array], dict[str, str]]:
    """By reference: the scores of the finished images [P, N], and the fingerprint of its scorer."""
    if not bench.references:
        raise NbenchError(f"no references at {bench.location.url}/scores: {how_to_add(bench)} scores its images")
    arrays = final_references(bench, bench_layout(bench))
    return arrays, {name: scores_metadata(bench.references[name])["scorer_fingerprint"] for name in arrays}
