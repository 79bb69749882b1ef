"""The commands that replay and tune pruning policies on recorded scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..console import print_table, say
from ..errors import NbenchError, check_range
from ..options import Argument, Option
from ..sampling.offline.config import BudgetOptions, CostOptions, MeasureOptions, ScoreSource, TuneConfig
from .configured import AsJson, Wide, command
from .panels import SAMPLE

if TYPE_CHECKING:
    from ..sampling.offline.recorded_scores import Recorded

tune_app = typer.Typer()


@command(tune_app, "replay", panel=SAMPLE, no_args_is_help=True)
def replay_command(
    policy: Annotated[
        str,
        Argument(
            "Policy: 10:3,20:1 (position:keep), 4,10:3,20:1 to draw four candidates, 4:6p.05,8:1 to drop those whose "
            "chance is below .05, 1,8:1r.6 to draw anew below a score of .6, or a JSON file."
        ),
    ],
    source: ScoreSource,
    costs: CostOptions,
    budget: BudgetOptions,
    n: Annotated[int, Option("Candidates per prompt of the full Best-of-n.")] = 6,
    out: Annotated[Path | None, Option("JSON file for the policy, with its chances calibrated.")] = None,
    wide: Wide = False,
    as_json: AsJson = False,
) -> None:
    """Show what a pruning policy selects and costs, compared with a random pick, plain Best-of-n and the oracle.

    `nbench replay 10:3,20:1 --bench data/small --model noisyclip`

    `nbench replay 20:1 scores.parquet reference.parquet --n 4 --json`

    `nbench replay 20:1 --model noisyclip --budget 200`

    `nbench replay 10:6p.1,20:1 --model noisyclip --out race.json`
    """
    import json

    from ..sampling.offline.recorded_scores import read_recorded
    from ..sampling.offline.replay import replay, replay_budget, save_replayed
    from ..sampling.offline.terminal import replay_table
    from ..sampling.policy import parse_policy

    _check_out(out, source)
    parsed = parse_policy(policy)
    calls, costs = budget.in_calls(costs)
    recorded = read_recorded(source, [stage.position for stage in parsed.stages])
    _note(recorded)
    per_run = costs.of(recorded)
    result = replay(recorded, parsed, n, per_run) if calls is None else replay_budget(recorded, parsed, calls, per_run)
    if out is not None:
        save_replayed(out, result, recorded)
    if as_json:
        print(json.dumps(result.to_dict()))
        return
    print_table(replay_table(result), wide)
    if out is not None:
        say("written:", out)


@command(tune_app, "tune", panel=SAMPLE, no_args_is_help=True)
def tune_command(
    source: ScoreSource,
    costs: CostOptions,
    config: TuneConfig,
    measuring: MeasureOptions,
    positions: Annotated[str, Option("Positions allowed for stages: all, 20,30 or 0:50:5.")] = "all",
    out: Annotated[Path | None, Option("JSON file for the policy; `replay` and `sample` read it.")] = None,
    frontier: Annotated[bool, Option("Show the best policy at other budgets too.")] = False,
    wide: Wide = False,
    as_json: AsJson = False,
) -> None:
    """Find the pruning policy that selects best within a budget, and measure it on held-out prompts.

    The policy may draw fewer than n candidates if that selects better. With `--adaptive` it may also look at scores.

    `nbench tune --bench data/small --model noisyclip --budget 0.35 --out policy.json`

    `nbench tune scores.parquet reference.parquet --score-cost 0.2 --frontier`

    `nbench tune --bench data/small --model noisyclip --measure --cost-file costs.json --budget 0.35`
    """
    import json

    from ..sampling.offline.recorded_scores import read_recorded
    from ..sampling.offline.terminal import tuned_tables
    from ..sampling.offline.tune import FRONTIER, save, tune

    _check_out(out, source)
    check_range("--at-once", measuring.at_once)
    if measuring.measure and (source.model is None or costs.cost_file is None):
        raise NbenchError("--measure needs a bench, --model, and --cost-file, where to write what it measured")
    recorded = read_recorded(source)
    _note(recorded)
    recorded = recorded.only(positions)
    if measuring.measure:
        _measure(source, costs.cost_file, measuring, config.n)
    config = replace(config, costs=costs.of(recorded))
    recorded = recorded.selectable(config.costs.calls_per_score)
    best, *others = tune(recorded, config, FRONTIER if frontier else ())
    if out is not None:
        save(out, best, recorded)
    if as_json:
        result = best.to_dict()
        print(json.dumps(result | {"frontier": [other.to_dict() for other in others]} if frontier else result))
        return
    print_table(tuned_tables([best, *others]), wide)
    if out is not None:
        say("written:", out)


def _measure(source: ScoreSource, path: Path | None, options: MeasureOptions, n: int) -> None:
    """Run the pipeline of the bench and write the cost file."""
    from ..builders.spec import call_arguments, maker_of
    from ..pipelines.find import load_pipeline
    from ..pipelines.quiet import quieten_diffusers
    from ..sampling.offline.cost_file import write_costs
    from ..sampling.offline.measure import measure
    from ..sampling.offline.recorded_scores import DEFAULT_BENCH
    from ..scorers.registry import get_scorer
    from ..shards.reader import open_bench

    assert source.model is not None
    assert path is not None
    quieten_diffusers()
    bench = open_bench(source.bench or DEFAULT_BENCH)
    spec, prompts = bench.info.spec, [prompt.prompt for prompt in bench.prompts[: options.at_once]]
    if len(prompts) < options.at_once:
        raise NbenchError(f"--at-once {options.at_once}: the bench has {len(prompts)} prompts; give fewer")
    scorer = get_scorer(options.scorer or source.model, bench.info)
    pipe = load_pipeline(maker_of(spec), spec["dtype"])
    costs = measure(pipe, call_arguments(spec), scorer, prompts, n, bench.info.preview)
    write_costs(path, costs)
    seconds, share = costs.step_seconds[-1] * len(prompts), costs.step_seconds[0] / costs.step_seconds[-1]
    say(
        f"a step of {n} candidates takes {seconds:.3g} s, of 1 candidate {share:.2f} of that; written: {path}",
        error=True,
    )


def _check_out(out: Path | None, source: ScoreSource) -> None:
    from ..shards.storage import is_same

    for path in (source.scores, source.reference_table):
        if out is not None and path is not None and is_same(out, path):
            raise NbenchError(f"--out {out} is also a table of scores: give another")


def _note(recorded: Recorded) -> None:
    if recorded.note:
        say(recorded.note, error=True)
