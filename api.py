"""What `import nbench` offers: the commands as functions, for scripts and notebooks.

Everything is imported on first use, so `import nbench` takes no time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .benchmarks.results.place import local_results
from .errors import NbenchError
from .options import Place

if TYPE_CHECKING:
    from .benchmarks.results.compare import ModelComparison
    from .benchmarks.results.leaderboard import Leaderboard
    from .benchmarks.results.result_file import EvaluationReport
    from .sampling.offline.replay import Replay
    from .sampling.offline.tune import Tuned
    from .shards.hub.publish import PublishReport
    from .shards.reader import Bench

Positions = str | Sequence[int]


def evaluate(
    bench: Place | Bench,
    models: Any = ("clip", "noisyclip"),
    positions: Positions = "all",
    *,
    reads: str = "preview",
    out: Path | str = "results",
    progress: bool = True,
    **settings: Any,
) -> EvaluationReport:
    """Score models on a bench and measure them, as `nbench evaluate`.

    Args:
        bench: an open bench, or its folder, URL or Hub id.
        models: names as of `nbench models`, scorers (see docs/scorers.md), or functions of (inputs, prompts) that
            return a score for each.
        positions: "all", "20,30", "0:50:5", or integers; the final position is added.
        reads: what functions are given, e.g. "latent", "preview", "x0_preview", "image".
        settings: further fields of `nbench.benchmarks.evaluate_config.EvaluateConfig`.

    Raises:
        NbenchError: no such bench, model or position, or no references.
    """
    from .benchmarks.evaluate import evaluate
    from .benchmarks.evaluate_config import EvaluateConfig
    from .scorers.function import as_scorer

    given = [models] if isinstance(models, str) or callable(models) or hasattr(models, "fingerprint") else list(models)
    names = tuple(model for model in given if isinstance(model, str))
    scorers = [as_scorer(model, reads) for model in given if not isinstance(model, str)]
    config = EvaluateConfig(_place(bench), names, _positions(positions), Path(out), **settings)
    return evaluate(config, progress, scorers)


def compare(
    a: str,
    b: str,
    bench: Place | Bench | None = None,
    *,
    results: Path | str = "results",
    reference: str | None = None,
    yardstick: str | None = None,
) -> ModelComparison:
    """Two models, paired by prompt, as `nbench compare`: result files, or MODEL or BENCH/MODEL under `results`.

    bench: has the references, which intervals and tests need.

    Raises:
        NbenchError: no such results, or they are of two benches.
    """
    from .benchmarks.results.compare import compare_results, find_result

    first, second = (find_result(name, local_results(results)) for name in (a, b))
    return compare_results(first, second, _opened(bench), reference, yardstick)


def leaderboard(results: Path | str = "results", sort: str = "spearman", **choice: Any) -> Leaderboard:
    """All results under a folder, best first, as `nbench leaderboard`; choice: position, reference, bench, yardstick.

    Raises:
        NbenchError: no results, or none that matches.
    """
    from .benchmarks.results.leaderboard import leaderboard

    return leaderboard(local_results(results), sort, **choice)


def replay(
    policy: str,
    bench: Place | Bench,
    model: str,
    *,
    n: int = 6,
    budget: float | None = None,
    results: Path | str = "results",
    **source: Any,
) -> Replay:
    """What a pruning policy selects and costs by recorded scores, as `nbench replay`.

    Args:
        policy: "10:3,20:1", or a policy file.
        model: its results are those of `evaluate` under `results`; source: reference, yardstick.
        budget: denoiser calls per prompt; None: n candidates.

    Raises:
        NbenchError: no such scores, or a policy that does not fit them.
    """
    from .sampling.offline.config import CostOptions, ScoreSource
    from .sampling.offline.recorded_scores import read_recorded
    from .sampling.offline.replay import replay, replay_budget
    from .sampling.policy import parse_policy

    parsed = parse_policy(policy)
    scores = ScoreSource(bench=_url(bench), model=model, results=local_results(results), **source)
    recorded = read_recorded(scores, [stage.position for stage in parsed.stages])
    costs = CostOptions().of(recorded)
    return replay(recorded, parsed, n, costs) if budget is None else replay_budget(recorded, parsed, budget, costs)


def tune(
    bench: Place | Bench,
    model: str,
    budget: float,
    *,
    n: int = 6,
    positions: Positions = "all",
    results: Path | str = "results",
    **source: Any,
) -> Tuned:
    """The pruning policy that selects best at a share `budget` of full Best-of-n, as `nbench tune`.

    Its `.policy` goes to `BestOfN` and `Engine`. source: reference, yardstick.

    Raises:
        NbenchError: no such scores, or no policy within the budget.
    """
    from .sampling.offline.config import CostOptions, ScoreSource, TuneConfig
    from .sampling.offline.recorded_scores import read_recorded
    from .sampling.offline.tune import tune

    scores = ScoreSource(bench=_url(bench), model=model, results=local_results(results), **source)
    recorded = read_recorded(scores).only(_positions(positions))
    config = replace(TuneConfig(n=n, budget=budget), costs=CostOptions().of(recorded))
    recorded = recorded.selectable(config.costs.calls_per_score)
    return tune(recorded, config)[0]


def publish(path: Place, repo_id: str, **settings: Any) -> PublishReport:
    """Publish a data set, a model or results on the Hub, as `nbench publish`; settings: private, revision, dry_run.

    Raises:
        NbenchError: nothing to publish, no token, or the Hub refuses.
    """
    from .shards.hub.config import PublishConfig
    from .shards.hub.publish import publish

    return publish(PublishConfig(path, repo_id, **settings))


def _place(bench: Place | Bench) -> Place:
    return bench if isinstance(bench, str | Path) else _url(bench)


def _url(bench: Place | Bench) -> str:
    return str(bench) if isinstance(bench, str | Path) else bench.location.url


def _opened(bench: Place | Bench | None) -> Bench | None:
    from .shards.reader import Bench, open_bench

    return bench if bench is None or isinstance(bench, Bench) else open_bench(bench)


def _positions(positions: Positions) -> str:
    if isinstance(positions, str):
        return positions
    if not all(isinstance(position, int) for position in positions):
        raise NbenchError(f"positions {list(positions)} are not integers: give integers, or text such as 0:50:5")
    return ",".join(map(str, positions))
