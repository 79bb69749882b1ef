"""The commands that replay and tune pruning policies on recorded scores."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..options import Argument, Option
from ..sampling.offline.config import BudgetOptions, CostOptions, ScoreSource, TuneConfig
from .configured import AsJson, command
from .panels import SAMPLE

if TYPE_CHECKING:
    from rich.table import Table

    from ..sampling.offline.recorded_scores import Recorded
    from ..sampling.offline.replay import Replay
    from ..sampling.offline.tune import Tuned

tune_app = typer.Typer()


@command(tune_app, "replay", panel=SAMPLE, no_args_is_help=True)
def replay_command(
    policy: Annotated[
        str, Argument("Policy: 10:3,20:1 (position:keep), 4,10:3,20:1 to draw four candidates, or a JSON file.")
    ],
    source: ScoreSource,
    costs: CostOptions,
    budget: BudgetOptions,
    n: Annotated[int, Option("Candidates per prompt of the full Best-of-n.")] = 6,
    as_json: AsJson = False,
) -> None:
    """Show what a pruning policy selects and costs, beside a random pick, plain Best-of-n and the oracle.

    `nbench replay 10:3,20:1 --bench data/small --model noisyclip`

    `nbench replay 20:1 scores.parquet reference.parquet --n 4 --json`

    `nbench replay 20:1 --model noisyclip --budget 200`
    """
    import json

    from ..sampling.offline.recorded_scores import read_recorded
    from ..sampling.offline.replay import replay, replay_budget
    from ..sampling.policy import parse_policy

    chosen = parse_policy(policy)
    calls, costs = budget.in_calls(costs)
    recorded = read_recorded(source, [stage.position for stage in chosen.stages])
    _note(recorded)
    spent = costs.of(recorded)
    found = replay(recorded, chosen, n, spent) if calls is None else replay_budget(recorded, chosen, calls, spent)
    if as_json:
        print(json.dumps(found.to_dict()))
    else:
        _print(_replay_table(found))


@command(tune_app, "tune", panel=SAMPLE, no_args_is_help=True)
def tune_command(
    source: ScoreSource,
    costs: CostOptions,
    config: TuneConfig,
    positions: Annotated[str, Option("Positions where stages may be: all, 20,30 or 0:50:5.")] = "all",
    out: Annotated[Path | None, Option("JSON file for the policy; `replay` and `sample` take it.")] = None,
    frontier: Annotated[bool, Option("Show the best policy at other budgets too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Find the pruning policy that selects best within a budget, and judge it on held-out prompts.

    It draws as many of the n candidates as pay off.

    `nbench tune --bench data/small --model noisyclip --budget 0.35 --out policy.json`

    `nbench tune scores.parquet reference.parquet --score-cost 0.2 --frontier`
    """
    import json

    from ..sampling.offline.recorded_scores import read_recorded
    from ..sampling.offline.tune import FRONTIER, save, tune

    recorded = read_recorded(source)
    _note(recorded)
    recorded = recorded.only(positions)
    config = replace(config, costs=costs.of(recorded))
    if not config.costs.calls_per_score and (later := [position for position in recorded.scores if position]):
        recorded = recorded.at_positions(later)  # position 0 is noise: a live run cannot choose there
    best, *others = tune(recorded, config, FRONTIER if frontier else ())
    if out is not None:
        save(out, best, recorded)
    if as_json:
        told = best.to_dict()
        print(json.dumps(told | {"frontier": [other.to_dict() for other in others]} if frontier else told))
        return
    _print(_replay_table(best.in_sample), _tuned_table([best, *others], config.n))
    if out is not None:
        print("written:", out)


def _note(recorded: Recorded) -> None:
    if recorded.note:
        print(recorded.note, file=sys.stderr)


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
