"""The local engine of several workers: a process for each, started afresh, and ended with its driver."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

from ..errors import NbenchError
from .engine import Hear, Report, Result, Team, answer_of
from .job import Context
from .worker import Assignment, Shift, Task

_MAX_DEATHS = 3
"""Workers in a row that may die before they have said anything."""
_GRACE = 10.0
"""Seconds that a worker has to end by itself."""


@dataclass(frozen=True)
class Processes:
    """The engine of a worker process for each of `devices`, the CUDA device that it sees; None: all or none."""

    devices: tuple[str | None, ...]
    elsewhere: ClassVar[bool] = False

    @contextmanager
    def team(self, assignments: Sequence[Assignment], hear: Hear) -> Iterator[Team]:
        """Start the processes; a worker that dies is replaced."""
        team = _Seats(self.devices, assignments, hear)
        try:
            yield team
        except BaseException:
            team.end(0)
            raise
        team.end(_GRACE)

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Made in a process that ends with it."""
        return aside(function, *arguments)


@dataclass
class _Seat:
    device: str | None
    process: Any
    connection: Connection
    name: str = ""
    task: Task | None = None


@dataclass
class _Seats:
    devices: Sequence[str | None]
    assignments: Sequence[Assignment]
    hear: Hear
    seats: list[_Seat] = field(default_factory=list)
    deaths: int = 0

    def __post_init__(self) -> None:
        self.seats = [self._seat(device) for device in self.devices]

    def idle(self) -> Sequence[str]:
        return [seat.name for seat in self.seats if seat.name and seat.task is None]

    def give(self, worker: str, task: Task) -> None:
        seat = next(seat for seat in self.seats if seat.name == worker)
        seat.task = task
        with suppress(OSError):  # it has just died, which `wait` will see
            seat.connection.send(task)

    def wait(self, seconds: float) -> None:
        ready = wait([seat.connection for seat in self.seats], seconds)
        for number, seat in enumerate(self.seats):
            if seat.connection in ready and not self._heard(seat):
                self._bury(seat)
                self.seats[number] = self._seat(seat.device)

    def end(self, grace: float) -> None:
        for seat in self.seats:
            with suppress(OSError):
                seat.connection.send(None)
            seat.connection.close()
        for seat in self.seats:
            seat.process.join(grace)
            if seat.process.is_alive():
                seat.process.kill()
                seat.process.join()

    def _heard(self, seat: _Seat) -> bool:
        """Whether the worker lives, after all that it has said."""
        try:
            while seat.connection.poll():
                message = seat.connection.recv()
                if isinstance(message, str):
                    seat.name = message
                    continue
                if message.outcome is not None:
                    seat.task, self.deaths = None, 0
                self.hear(message)
        except (EOFError, OSError):
            return False
        return True

    def _bury(self, seat: _Seat) -> None:
        seat.process.join()
        code, self.deaths = seat.process.exitcode, self.deaths + 1
        cause = f"signal {-code}, {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        if not seat.name and self.deaths >= _MAX_DEATHS:
            raise NbenchError(f"worker processes die as they start ({cause}): see the messages above")
        if seat.name:
            self.hear(Report(seat.name, death=f"its worker died ({cause})"))

    def _seat(self, device: str | None) -> _Seat:
        ours, theirs = mp.Pipe()
        process = mp.get_context("spawn").Process(target=_work, args=(theirs, self.assignments), daemon=True)
        with _environment(_variables(device, len(self.devices))):
            process.start()
        theirs.close()
        return _Seat(device, process, ours)


def aside(function: Callable[..., Result], *arguments: Any) -> Result:
    """The result of a call in a process of its own, so that what it imports does not stay in this one; all picklable.

    Raises:
        NbenchError: the call raises it, or its process ends early.
    """
    ours, theirs = mp.Pipe(duplex=False)
    process = mp.get_context("spawn").Process(target=_call, args=(theirs, function, arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        result = ours.recv()
    except EOFError:
        raise NbenchError("a helper process died: see the messages above") from None
    finally:
        process.join()
    if isinstance(result, NbenchError):
        raise result
    return result


def _call(connection: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    connection.send(answer_of(function, arguments))


def devices_here(workers: int) -> tuple[str | None, ...]:
    """The device of each of `workers`: this machine's GPUs in turn; None without a GPU, and for a single worker."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    drivers = Path("/proc/driver/nvidia/gpus")
    gpus = visible.split(",") if visible else [str(i) for i, _ in enumerate(drivers.glob("*"))]
    return tuple(gpus[worker % len(gpus)] if gpus and workers > 1 else None for worker in range(workers))


def _variables(device: str | None, workers: int) -> dict[str, str]:
    """The environment of a worker: its device, and its part of the cores unless the user has set threads."""
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // workers))}
    threads = {name: value for name, value in threads.items() if name not in os.environ}
    return threads | ({} if device is None else {"CUDA_VISIBLE_DEVICES": device})


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for processes that are started inside."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _work(connection: Connection, assignments: Sequence[Assignment]) -> None:
    """A worker process: makes the units that arrive until told to end, or until its driver is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the driver ends its workers
    Thread(target=_end_with_parent, daemon=True).start()
    context = Context(
        say=lambda text: connection.send(Report(worker.name, note=text)),
        advance=lambda rows: connection.send(Report(worker.name, rows=rows)),
    )
    worker = Shift(assignments, context)
    with suppress(EOFError, OSError):  # the driver is gone
        connection.send(worker.name)
        while (task := connection.recv()) is not None:
            connection.send(Report(worker.name, worker.run(task)))
    worker.close()


def _end_with_parent() -> None:
    parent = mp.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
