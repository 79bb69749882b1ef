"""The commands of the command line that replay and tune pruning policies on recorded scores."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from ..sampling.offline.recorded_scores import Recorded
    from ..sampling.offline.replay import Costs, Replay
    from ..sampling.offline.tune import Tuned

tune_app = typer.Typer()

Scores = Annotated[Path | None, typer.Argument(help="Parquet, CSV or JSONL: prompt_id, candidate, position, score.")]
Reference = Annotated[Path | None, typer.Argument(help="Table: prompt_id, candidate, score.")]
Bench = Annotated[
    str | None, typer.Option(envvar="NBENCH_BENCH", help="Folder, URL or Hub id. [default: data/noisy-genai-bench]")
]
Model = Annotated[str | None, typer.Option(help="Whose scores: as nbench evaluate named its results.")]
Results = Annotated[Path, typer.Option(help="Where nbench evaluate wrote.")]
Against = Annotated[
    str | None, typer.Option(help="Reference that counts. [default: vqascore, else clip, else the first]")
]
Yardstick = Annotated[
    str | None, typer.Option(help="With --bench: reference that final-image selection goes by. [default: clip]")
]
Steps = Annotated[int | None, typer.Option(help="With tables: T of the runs. [default: the last position]")]
Candidates = Annotated[int, typer.Option("--n", help="Candidates a prompt, of the full Best-of-n.")]
ScoreCost = Annotated[
    float | None,
    typer.Option(
        help="Of scoring a candidate once, in denoiser calls. [default: as nbench evaluate --time-steps told]"
    ),
]
DecodeCost = Annotated[float, typer.Option(help="Of decoding a finished latent, in denoiser calls.")]
ReadsX0 = Annotated[
    bool | None,
    typer.Option(
        "--reads-x0/--no-reads-x0",
        help="Scores are of the x0 estimate: a call more each stage. [default: as the scores say]",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@tune_app.command("replay", no_args_is_help=True)
def replay_command(
    policy: Annotated[str, typer.Argument(help="10:3,20:1 (position:keep), 4,10:3,20:1 to draw four, or a JSON file.")],
    scores: Scores = None,
    reference_table: Reference = None,
    bench: Bench = None,
    model: Model = None,
    results: Results = Path("results"),
    reference: Against = None,
    yardstick: Yardstick = None,
    steps: Steps = None,
    n: Candidates = 6,
    score_cost: ScoreCost = None,
    decode_cost: DecodeCost = 0.0,
    reads_x0: ReadsX0 = None,
    budget: Annotated[float | None, typer.Option(help="Calls a prompt: how many candidates does each way see?")] = None,
    flops: Annotated[float | None, typer.Option(help="The budget in FLOPs, with --step-flops.")] = None,
    step_flops: Annotated[float | None, typer.Option(help="FLOPs of a denoiser call of one candidate.")] = None,
    score_flops: Annotated[float, typer.Option(help="FLOPs of scoring a candidate once.")] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Say what a pruning policy selects and costs, beside a random pick, plain Best-of-n and the oracle.

    `nbench replay 10:3,20:1 --bench data/small --model noisyclip`

    `nbench replay 20:1 scores.parquet reference.parquet --n 4 --json`

    `nbench replay 20:1 --model noisyclip --budget 200`
    """
    import json

    from ..errors import NbenchError
    from ..sampling.offline.replay import replay, replay_budget
    from ..sampling.policy import parse_policy

    wanted = parse_policy(policy)
    if flops is not None:
        if budget is not None or step_flops is None or step_flops <= 0 or score_cost:
            raise NbenchError("--flops goes with --step-flops and --score-flops, without --budget and --score-cost")
        budget, score_cost = flops / step_flops, score_flops / step_flops
    elif step_flops is not None or score_flops:
        raise NbenchError("--step-flops and --score-flops are for a budget in FLOPs: give --flops")
    positions = [stage.position for stage in wanted.stages]
    recorded = _recorded(scores, reference_table, bench, model, results, reference, yardstick, steps, positions)
    costs = _costs(recorded, score_cost, decode_cost, reads_x0)
    found = replay(recorded, wanted, n, costs) if budget is None else replay_budget(recorded, wanted, budget, costs)
    if as_json:
        print(json.dumps(found.to_dict()))
    else:
        _print(_replay_table(found))


@tune_app.command("tune", no_args_is_help=True)
def tune_command(
    scores: Scores = None,
    reference_table: Reference = None,
    bench: Bench = None,
    model: Model = None,
    results: Results = Path("results"),
    reference: Against = None,
    yardstick: Yardstick = None,
    steps: Steps = None,
    n: Candidates = 6,
    budget: Annotated[float, typer.Option(help="Share of the cost of full Best-of-n.")] = 0.5,
    max_stages: Annotated[int, typer.Option(help="Stages at most.")] = 3,
    positions: Annotated[str, typer.Option(help="Where stages may be: all, 20,30 or 0:50:5.")] = "all",
    folds: Annotated[int, typer.Option(help="Parts of the prompts, each held out once.")] = 5,
    score_cost: ScoreCost = None,
    decode_cost: DecodeCost = 0.0,
    reads_x0: ReadsX0 = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for the policy; replay and sample take it.")] = None,
    frontier: Annotated[bool, typer.Option("--frontier", help="Tell the best policy at other budgets too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Find the pruning policy that selects best within a budget, and judge it on prompts that had no say in it.

    It draws as many of the n candidates as pay.

    `nbench tune --bench data/small --model noisyclip --budget 0.35 --out policy.json`

    `nbench tune scores.parquet reference.parquet --score-cost 0.2 --frontier`
    """
    import json

    from ..sampling.offline.tune import FRONTIER, TuneConfig, save, tune

    recorded = _recorded(scores, reference_table, bench, model, results, reference, yardstick, steps, None)
    recorded = recorded.only(positions)
    costs = _costs(recorded, score_cost, decode_cost, reads_x0)
    if not costs.calls_per_score and (later := [position for position in recorded.scores if position]):
        recorded = recorded.at_positions(later)  # position 0 is noise: a live run cannot choose there
    config = TuneConfig(n=n, budget=budget, max_stages=max_stages, folds=folds, costs=costs)
    best, *others = tune(recorded, config, FRONTIER if frontier else ())
    if out is not None:
        save(out, best, recorded)
    if as_json:
        told = best.to_dict()
        print(json.dumps(told | {"frontier": [other.to_dict() for other in others]} if frontier else told))
        return
    _print(_replay_table(best.in_sample), _tuned_table([best, *others], n))
    if out is not None:
        print("written:", out)


def _recorded(
    scores: Path | None,
    reference_table: Path | None,
    bench: str | None,
    model: str | None,
    results: Path,
    reference: str | None,
    yardstick: str | None,
    steps: int | None,
    positions: Sequence[int] | None,
) -> Recorded:
    from ..errors import NbenchError
    from ..sampling.offline.recorded_scores import from_bench, from_tables

    if scores is not None and reference_table is not None and model is reference is yardstick is None:
        return from_tables(scores, reference_table, steps, positions)
    if scores is None and model is not None and steps is None:
        recorded = from_bench(bench or "data/noisy-genai-bench", model, results, reference, positions, yardstick)
        if recorded.note:
            print(recorded.note, file=sys.stderr)
        return recorded
    raise NbenchError("give --model (with --bench), or two tables, SCORES REFERENCE (with --steps)")


def _costs(recorded: Recorded, score: float | None, decode: float, reads_x0: bool | None) -> Costs:
    """As given, else as the evaluation told."""
    from ..sampling.offline.replay import Costs

    calls = recorded.calls_per_score if reads_x0 is None else int(reads_x0)
    return Costs(recorded.score_cost if score is None else score, decode, calls)


def _print(*tables: Table) -> None:
    from rich.console import Console

    console = Console()
    console.width = max(console.width, 80)
    for table in tables:
        console.print(table)


def _table(title: str, caption: str, *headings: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, caption=caption, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left", no_wrap=True)
    return table


def _replay_table(found: Replay) -> Table:
    exact = "" if found.exact else ", subsets drawn"
    out = f", {found.left_out} left out" if found.left_out else ""
    title = (
        f"{found.policy} by {found.model}, {found.reference}: {found.n_prompts} prompts x {found.recorded}{out}{exact}"
    )
    caption = f"gain: share of what final-image selection ({found.yardstick}) gains over random; 95 % intervals"
    if found.budget is not None:
        title += f", budget {found.budget:g} calls"
    table = _table(title, caption, "", "seen", "calls", "share", "selected", "gain", "oracle")
    for row in found.rows:
        figures = (_number(row.selected.value), _interval(*row.recovered_gain), _number(row.oracle_gain.value))
        seen = str(row.seen) if row.affords == row.seen else f"{row.seen} of {row.affords}"
        table.add_row(row.way, seen, f"{row.calls:g}", f"{row.share:.3f}", *figures)
    return table


def _tuned_table(found: list[Tuned], n: int) -> Table:
    how = "all that the budget pays for" if found[0].exhaustive else "a beam"
    caption = (
        f"in-sample gain flatters, held-out gain is of policies chosen on other prompts; {found[0].met} met: {how}"
    )
    table = _table(f"best policies from {n} candidates", caption, "budget", "policy", "share", "in-sample", "held-out")
    for one in found:
        row = one.in_sample.rows[0]
        held = _interval(*one.held_out["recovered_gain"])
        table.add_row(f"{one.budget:g}", str(one.policy), f"{row.share:.3f}", _number(row.recovered_gain.value), held)
    return table


def _number(value: float) -> str:
    return "-" if value != value else f"{value:z.3f}"


def _interval(value: float, low: float, high: float) -> str:
    return f"{_number(value)} ({_number(low)} .. {_number(high)})"
