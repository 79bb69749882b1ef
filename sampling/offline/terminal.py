"""Replays and tuned policies as tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table

from ...console import plain_table, stacked
from .replay import Replay
from .tune import Tuned


def replay_table(result: Replay) -> Table:
    """What each way to select costs and gains."""
    title = f"{result.policy} by {result.model}, {result.reference}: {result.n_prompts} prompts x {result.recorded}"
    title += f", {result.left_out} left out" if result.left_out else ""
    title += "" if result.exact else ", subsets sampled"
    title += f", budget {result.budget:g} calls" if result.budget is not None else ""
    caption = f"gain: share of what final-image selection ({result.yardstick}) gains over random; 95 % intervals"
    table = plain_table(
        "", "seen", "calls", "share", "selected", "gain", "oracle", title=title, caption=caption, left=("",)
    )
    for row in result.rows:
        figures = (_number(row.selected.value), _interval(*row.recovered_gain), _number(row.oracle_gain.value))
        candidates = str(row.seen) if row.affords == row.seen else f"{row.seen} of {row.affords}"
        table.add_row(row.way, candidates, f"{round(row.calls, 1):g}", f"{row.share:.3f}", *figures)
    return table


def tuned_tables(results: Sequence[Tuned]) -> Group:
    """The replay of the first policy, and all policies by budget."""
    return stacked([replay_table(results[0].in_sample), _policies(results)])


def _policies(results: Sequence[Tuned]) -> Table:
    extent = "all within the budget" if results[0].exhaustive else "a beam search"
    caption = (
        "in-sample gain is optimistic; held-out gain is of policies chosen on other prompts; "
        f"{results[0].met} policies compared: {extent}"
    )
    columns = ("budget", "policy", "share", "in-sample", "held-out")
    table = plain_table(
        *columns, title=f"best policies from {results[0].in_sample.n} candidates", caption=caption, left=("policy",)
    )
    for tuned in results:
        row = tuned.in_sample.rows[0]
        figures = _number(row.recovered_gain.value), _interval(*tuned.held_out["recovered_gain"])
        table.add_row(f"{tuned.budget:g}", str(tuned.policy), f"{row.share:.3f}", *figures)
    return table


def _number(value: float) -> str:
    return "-" if value != value else f"{value:z.3f}"


def _interval(value: float, low: float, high: float) -> str:
    return f"{_number(value)} [{_number(low)}, {_number(high)}]"
