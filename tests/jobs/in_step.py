"""An engine whose workers take equally long for a unit: all that have one make it in one round."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from nbench.jobs.engine import Hear, Report, Team
from nbench.jobs.job import Context
from nbench.jobs.processes import Processes
from nbench.jobs.worker import Assignment, Shift, Task

SILENT = Context(lambda text: None, lambda rows: None)


@dataclass(frozen=True)
class InStep(Processes):
    """Workers in this process, in place of processes; `jobs`: by worker, the title of the job of each of its units."""

    jobs: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @property
    def rounds(self) -> int:
        """In how many rounds units were made."""
        return max(map(len, self.jobs.values()))

    @contextmanager
    def team(self, assignments: Sequence[Assignment], hear: Hear) -> Iterator[Team]:
        workers = {str(number): Shift(assignments, SILENT) for number, _ in enumerate(self.devices)}
        yield _Team(workers, [assignment.title for assignment in assignments], hear, self.jobs)
        for worker in workers.values():
            worker.close()


@dataclass
class _Team:
    workers: dict[str, Shift]
    titles: list[str]
    hear: Hear
    jobs: dict[str, list[str]]
    given: dict[str, Task] = field(default_factory=dict)

    def idle(self) -> Sequence[str]:
        return [name for name in self.workers if name not in self.given]

    def give(self, worker: str, task: Task) -> None:
        self.given[worker] = task
        if task.index >= 0:  # without the first look
            self.jobs[worker].append(self.titles[task.job])

    def wait(self, seconds: float) -> None:
        for name, task in list(self.given.items()):
            del self.given[name]
            self.hear(Report(name, self.workers[name].run(task)))
