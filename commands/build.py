"""The commands that build a data set of trajectories or estimate its cost."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ..builders.config import BuildConfig
from ..console import counted, plain_table, print_table, say
from ..jobs.options import EngineOptions
from ..options import Fields, Option
from .configured import AsJson, command
from .jobs import left_to_others
from .panels import BUILD
from .yaml_options import ConfigFile

if TYPE_CHECKING:
    from ..builders.planning.costs import Costs
    from ..builders.planning.timing import Timing

build_app = typer.Typer()


@command(build_app, panel=BUILD, no_args_is_help=True)
def build(
    config: BuildConfig,
    workers: EngineOptions,
    options: ConfigFile = None,
    dry_run: Annotated[bool, Option("Show what would be built, and build nothing.")] = False,
) -> None:
    """Generate trajectories: per prompt the latents of every step, the final images and, in a bench, their scores.

    `nbench build genai-bench --limit 20 --out data/small`

    `nbench build ncc --pipeline sdxl --prompts captions.jsonl --positions 20:30 --out data/ncc-sdxl`

    `nbench build ncc --pipeline sdxl --prompts captions.jsonl --devices 0,1,2,3 --out data/ncc-sdxl`

    `nbench build --config ncc.yaml --out data/ncc`

    `nbench build genai-bench --pipeline flux --height 768 --width 1024 --compile --out data/flux`

    `nbench build genai-bench --pipeline sdxl --process forward --images genai-bench --out data/rated`
    """
    _check(config)
    if dry_run:
        from ..builders.planning.costs import estimate_costs

        _print(estimate_costs(config), None, 1, None)
        return
    from ..benchmarks.build import build

    report = build(config, workers=workers)
    failed = f", {report.failed} failed" if report.failed else ""
    if workers.share is not None:
        rest = left_to_others(report.left, "there")
        made = f"{report.built} of {counted(report.rows, 'trajectory')} made now in {report.seconds:.0f} s"
        say(f"{report.out}: {made}; {rest}; at the end: nbench merge {report.out}")
        return
    rows = counted(report.rows, "trajectory")
    say(f"{report.out}: {rows}{failed}, {report.built} made now in {report.seconds:.0f} s")


@command(build_app, panel=BUILD, no_args_is_help=True)
def plan(
    config: Annotated[BuildConfig, Fields(without=("out", "fresh", "retry_failed", "extend"))],
    options: ConfigFile = None,
    devices: Annotated[int, Option("Number of devices in parallel.", min=1)] = 1,
    price: Annotated[float | None, Option("Price of one device per hour.", min=0)] = None,
    timing: Annotated[
        bool, Option("Time a few batches on this machine, or load no weights.", flag="--timing/--no-timing")
    ] = True,
    mde: Annotated[float | None, Option("Difference in Spearman that the prompts should show.")] = None,
    as_json: AsJson = False,
) -> None:
    """Estimate what a build will cost: trajectories, denoiser or encoder rows, bytes, shards, and hours.

    `nbench plan ncc --pipeline sdxl --prompts cc12m --positions 20:30 --no-timing`

    `nbench plan genai-bench --pipeline sdxl --prompts genai-bench --devices 8 --price 2.5`

    `nbench plan genai-bench --no-timing --mde 0.1`
    """
    import json

    from ..benchmarks.metrics.power import prompts_to_show
    from ..builders.planning.costs import estimate_costs

    _check(config)
    costs, measured = estimate_costs(config), None
    needed = None if mde is None else prompts_to_show(mde, costs.candidates)
    if timing:
        from ..builders.process import process_of

        measured = process_of(config).time()
    if as_json:
        shown = {} if needed is None else {"prompts_to_show": {"difference": mde, "prompts": needed}}
        print(json.dumps(_to_dict(costs, measured, devices, price) | shown))
        return
    _print(costs, measured, devices, price)
    if needed is not None:
        say(f"{needed:,} prompts show a difference of {mde:g} in Spearman between two models (p < 0.05, 80 % power)")


def _check(config: BuildConfig) -> None:
    """Check what `estimate_costs` does not, so that a plan refuses what its build would refuse."""
    if config.references:
        from ..scorers.references import parse_references

        parse_references(config.references)


def _to_dict(costs: Costs, timing: Timing | None, devices: int, price: float | None) -> dict[str, object]:
    estimate = {**asdict(costs), "raw_bytes": costs.raw_bytes, "stored_bytes": costs.stored_bytes}
    if timing is None:
        return estimate
    hours = timing.device_hours(costs)
    return estimate | {
        "timing": asdict(timing),
        "device_hours": hours,
        "devices": devices,
        "hours": timing.hours(costs, devices),
        "cost": None if price is None else hours * price,
    }


def _print(costs: Costs, timing: Timing | None, devices: int, price: float | None) -> None:
    from rich.console import Group
    from rich.table import Table

    latent, image = ("x".join(map(str, shape)) for shape in (costs.latent_shape, costs.image_size))
    work = f"{costs.steps} steps, {costs.rows_a_step} per step"
    if costs.encoder_rows:
        work = f"{costs.encoder_rows:,} images go through the autoencoder's encoder"
    facts = {
        "prompts": f"{costs.prompts:,} ({costs.prompts_known_from})",
        "trajectories": f"{costs.trajectories:,} ({costs.candidates} per prompt)",
        "denoiser rows": f"{costs.denoiser_rows:,} ({work})",
        "latents": f"{latent}, {costs.latent_dtype}; images {image}",
        "shards": f"{costs.shards:,} of {costs.rows_per_shard} rows, {costs.format}",
        "batch size": str(costs.batch_size),
    }
    if timing is not None:
        facts["batch size"] = f"{timing.batch_size}, on {timing.device}"
        facts["per trajectory"] = f"{timing.seconds_a_row(costs.steps):.3g} s"
        facts["device hours"] = f"{timing.device_hours(costs):.3g}"
        facts[f"hours on {devices}"] = f"{timing.hours(costs, devices):.3g}"
        if timing.peak_bytes is not None:
            facts["memory"] = f"{timing.peak_bytes / 2**30:.1f} GiB at most"
        if price is not None:
            facts["cost"] = f"{timing.device_hours(costs) * price:,.2f}"
    grid = Table.grid(padding=(0, 2))
    table = plain_table("column", "raw MB", "expected MB on disk", left=("column",))
    for name, value in facts.items():
        grid.add_row(name, value)
    for column in costs.columns:
        table.add_row(column.name, f"{column.raw_bytes / 1e6:,.2f}", f"{column.stored_bytes / 1e6:,.2f}")
    table.add_row("all", f"{costs.raw_bytes / 1e6:,.2f}", f"{costs.stored_bytes / 1e6:,.2f}")
    print_table(Group(grid, table, *costs.notes))
