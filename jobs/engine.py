"""What an engine is: workers, tasks for them, and what they report; and the simplest one, this process itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from ..errors import NbenchError
from .job import Context
from .worker import Assignment, Outcome, Shift, Task

Result = TypeVar("Result")


@dataclass(frozen=True)
class Report:
    """What `worker` reports: the outcome of its task, a line to print, rows made, or why it died."""

    worker: str
    outcome: Outcome | None = None
    note: str = ""
    rows: float = 0
    death: str = ""


Hear = Callable[[Report], None]


class Team(Protocol):
    """Workers at one job or several."""

    def idle(self) -> Sequence[str]:
        """The workers that wait for a task."""

    def give(self, worker: str, task: Task) -> None:
        """Give an idle worker a task."""

    def wait(self, seconds: float) -> None:
        """Hear at least one report, or wait for `seconds`."""


class Engine(Protocol):
    """Who calls which unit."""

    @property
    def elsewhere(self) -> bool:
        """Whether workers may be on other machines, with other devices and disks."""

    def team(self, assignments: Sequence[Assignment], hear: Hear) -> AbstractContextManager[Team]:
        """Workers at these jobs, until the context is left; their reports go to `hear`.

        Raises:
            NbenchError: they cannot be started.
        """

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """The result of a call that imports torch, made where units are made; all picklable.

        Raises:
            NbenchError: the call raises it, or cannot be made.
        """


class Here:
    """The engine of one worker: this process."""

    elsewhere = False

    @contextmanager
    def team(self, assignments: Sequence[Assignment], hear: Hear) -> Iterator[Team]:
        """A job is opened with its first task."""
        team = _Alone(assignments, hear)
        try:
            yield team
        finally:
            team.worker.close()

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """The call itself."""
        return function(*arguments)


def answer_of(function: Callable[..., Result], arguments: Sequence[Any]) -> Result | NbenchError:
    """The result of a call, or the error that it raises, to be sent to another process."""
    try:
        return function(*arguments)
    except NbenchError as error:
        return error


class _Alone:
    def __init__(self, assignments: Sequence[Assignment], hear: Hear) -> None:
        context = Context(
            say=lambda text: hear(Report(self.worker.name, note=text)),
            advance=lambda rows: hear(Report(self.worker.name, rows=rows)),
        )
        self.worker = Shift(assignments, context)
        self._hear = hear
        self._task: Task | None = None

    def idle(self) -> Sequence[str]:
        return [self.worker.name] if self._task is None else []

    def give(self, worker: str, task: Task) -> None:
        self._task = task

    def wait(self, seconds: float) -> None:
        if self._task is None:
            time.sleep(seconds)
            return
        outcome, self._task = self.worker.run(self._task), None
        self._hear(Report(self.worker.name, outcome))
