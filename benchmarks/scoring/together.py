"""Several score tables at once: each asks for the jobs that it needs, and workers are spread over those of all."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import TypeVar

from ...errors import NbenchError
from ...jobs.records import Record
from ...jobs.run import Run, Summary, complete_together
from .score_job import ScoreJob

Result = TypeVar("Result")
Asking = Generator[ScoreJob, tuple[Summary, dict[int, Record]], Result]
"""Yields one job after another, is sent what `complete` returns of it, and returns a result."""


def together(tables: Mapping[str, Asking[Result]], how: Run) -> dict[str, Result]:
    """The result of each table, by name.

    Raises:
        NbenchError: one cannot begin; or, once all others are finished, the first failure of one.
    """
    results, failures = dict[str, Result](), list[NbenchError]()
    waiting = {name: _next(table, None, name, results) for name, table in tables.items()}
    while jobs := {name: job for name, job in waiting.items() if job is not None}:
        completed = complete_together(list(jobs.values()), how, f"scoring {len(jobs)} models")
        waiting = {}
        for name, answer in zip(jobs, completed, strict=True):
            try:
                waiting[name] = _next(tables[name], answer, name, results)
            except NbenchError as error:
                failures.append(error)
    if failures:
        raise failures[0]
    return {name: results[name] for name in tables}


def _next(
    table: Asking[Result], answer: tuple[Summary, dict[int, Record]] | None, name: str, results: dict[str, Result]
) -> ScoreJob | None:
    """The next job of a table; None if there is none, and its result is in `results`."""
    try:
        return next(table) if answer is None else table.send(answer)
    except StopIteration as end:
        results[name] = end.value
        return None
