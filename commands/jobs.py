"""The commands that show how far long work is, and close it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..console import counted, say
from ..errors import one_line
from ..options import Argument
from .configured import AsJson, command
from .panels import BUILD

if TYPE_CHECKING:
    from ..jobs.status import Status

jobs_app = typer.Typer()


@command(jobs_app, panel=BUILD, no_args_is_help=True)
def status(
    path: Annotated[str, Argument("Folder at which a build or an evaluation is at work: folder or URL.")],
    as_json: AsJson = False,
) -> None:
    """Show how far long work is: units done, rate, time left, failures and slow workers; from any machine.

    `nbench status data/ncc`

    `nbench status data/ncc --json`
    """
    import json
    from dataclasses import asdict

    from ..jobs.status import at_work

    jobs = at_work(path)
    if as_json:
        print(json.dumps({"path": path, "jobs": [asdict(job) for job in jobs]}))
        return
    for job in jobs:
        _print(job)
    if not jobs:
        say(f"{path}: no job is at work there")


@command(jobs_app, panel=BUILD, no_args_is_help=True)
def merge(path: Annotated[str, Argument("Data set that several processes have built: folder or URL.")]) -> None:
    """Check that all shards of a build in parts (--rank, --units) are there, and close the data set.

    `nbench merge data/ncc`
    """
    from ..builders.merge import merge_parts

    info = merge_parts(path)
    say(f"{path}: {counted(info.rows, 'trajectory')} in {counted(len(info.shards), 'shard')}")
    if info.split == "test":
        say(f"next: nbench references {path} --add clip,vqascore, or repeat its nbench build without --rank")


def left_to_others(left: int, done: str) -> str:
    """How many shards a share of a job has left to other processes; `done`: what all of them are when none is left."""
    return f"{counted(left, 'shard')} left to others" if left else f"all shards are {done}"


def _print(job: Status) -> None:
    rate = "" if job.units_per_hour is None else f", {job.units_per_hour:,.1f} units per hour"
    left = "" if job.seconds_left is None else f", {_duration(job.seconds_left)} left"
    failed = f", {job.failed} failed" if job.failed else ""
    say(f"{job.place}: {job.title}, {job.done:,} of {job.units:,} units{failed}{rate}{left}")
    for worker in job.workers:
        state = ("at work" if worker.at_work else "away") + (", slow" if worker.slow else "")
        say(f"  {worker.name}: {worker.units} recent units, {worker.seconds:.1f} s each, {state}")
    for index, reason in sorted(job.failures.items())[:20]:
        say(f"  unit {index} failed: {one_line(reason)}")


def _duration(seconds: float) -> str:
    """Hours and minutes, or seconds."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min"
