"""Progress of a long run on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from .console import TextConsole

_LINES = 10
_SECONDS = 60
"""Plain lines are printed at each tenth of the total, and after this many seconds without a line."""


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(_per_second(task.speed or 0))


class BuildProgress:
    """A context manager that counts trajectories up to `total`, starting at `done`; silent unless `shown`."""

    def __init__(self, title: str, total: int, done: int = 0, shown: bool = True) -> None:
        self._console = TextConsole(stderr=True, quiet=not shown)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._bar.add_task(title, total=total, completed=done)
        self._title, self._total, self._start = title, total, done
        self._done, self._began = float(done), time.monotonic()
        self._last_line = self._began

    def __enter__(self) -> BuildProgress:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """Print a line of text."""
        self._console.print(text, soft_wrap=True)

    def advance(self, count: float) -> None:
        """Count `count` more trajectories, or a share of some."""
        before, self._done = self._done, round(self._done + count, 6)
        if self._console.is_terminal:
            self._bar.advance(self._task, count)
            return
        now = time.monotonic()
        crossed_tenth = before * _LINES // self._total < self._done * _LINES // self._total
        if crossed_tenth or now - self._last_line > _SECONDS:
            self._last_line = now
            rate = (self._done - self._start) / max(now - self._began, 1e-9)
            seconds_left = (self._total - self._done) / max(rate, 1e-9)
            self.say(f"{self._title}: {self._done:.0f}/{self._total}, {_per_second(rate)}, {seconds_left:.0f} s left")


def _per_second(rate: float) -> str:
    return f"{rate:.{1 if rate >= 1 else 3}f}/s"
