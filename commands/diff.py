"""The command that says in what two data sets or results differ."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from ..benchmarks.results.place import local_results
from ..console import print_table, say
from ..options import Argument
from .configured import AsJson, Wide, command
from .panels import DATA

if TYPE_CHECKING:
    from ..shards.diff.report import DiffReport

diff_app = typer.Typer()


@command(diff_app, panel=DATA)
def diff(
    a: Annotated[str, Argument("Data set (folder, URL or Hub id), or results (folder or file).")],
    b: Annotated[str, Argument("Data set or results to compare it with.")],
    wide: Wide = False,
    as_json: AsJson = False,
) -> None:
    """Show in what two data sets or two results differ; exit code 0 if they are the same, 1 if not, 2 on an error.

    `nbench diff data/small data/small-int8`

    `nbench diff results/small results/again`
    """
    report = _compare(a, b)
    if as_json:
        print(report.to_json())
        raise typer.Exit(0 if report.same else 1)
    if not report.same:
        say("A:", report.a)
        say("B:", report.b)
        print_table(report.table(), wide)
    for note in report.notes:
        say(f"note: {note}")
    say(report.summary())
    raise typer.Exit(0 if report.same else 1)


def _compare(a: str, b: str) -> DiffReport:
    from ..benchmarks.results.diff import diff_results
    from ..errors import NbenchError
    from ..progress import BuildProgress
    from ..shards.dataset import read_info
    from ..shards.diff.datasets import diff_datasets

    kinds = {place: _is_results(place) for place in (a, b)}
    if all(kinds.values()):
        report = diff_results(local_results(a), local_results(b))
        return replace(report, a=a, b=b)
    if any(kinds.values()):
        other, results = sorted((a, b), key=lambda place: kinds[place])
        raise NbenchError(f"{results} holds results, {other} does not: give two data sets or two results")
    with BuildProgress("diff", max(1, read_info(a).rows)) as progress:
        return diff_datasets(a, b, progress.advance)


def _can_be_copied(url: str) -> bool:
    from ..errors import NbenchError

    try:
        local_results(url)
    except NbenchError:
        return False
    return True


def _is_results(place: str) -> bool:
    """Whether it holds results rather than a data set."""
    from ..benchmarks.results.diff import has_results
    from ..shards.dataset import INFO_FILE
    from ..shards.storage import Location

    where = Location.of(place)
    if where.folder is None:
        return "://" in place and where.size(INFO_FILE) is None and _can_be_copied(place)
    return not (where.folder / INFO_FILE).exists() and has_results(where.folder)
