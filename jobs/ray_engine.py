"""The engine on a Ray cluster: an actor for each worker, one unit in flight at each; the driver counts attempts.

Ray restarts an actor that dies, but retries no call: a call that Ray retries is bound to its actor, and hangs when the
actor's node has left. The driver gives the unit to an actor that has answered a ping instead.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ..errors import NbenchError, reason_of
from .engine import Hear, Report, Result, Team, answer_of
from .job import Context
from .processes import aside
from .worker import Assignment, Outcome, Shift, Task

_RESTARTING = 0.2
"""Seconds between two pings of an actor that is coming back."""
_SECONDS = [0.001, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0]
"""Bounds of the histograms of seconds per row and per step."""
_QUIET = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_DEDUP_LOGS": "1"}


@dataclass(frozen=True)
class RayEngine:
    """Workers as actors of a Ray cluster.

    Attributes:
        workers: number of actors, of which those without a place wait for one; None: as many as the GPUs allow, or one.
        gpus: of each actor; may be a part of one. None: one, if the cluster has any.
        address: of the cluster; "local" starts one here, "auto" joins the one that this process belongs to.
        runtime_env: of the actors, as Ray documents it: packages, variables, working folder.
    """

    workers: int | None = None
    gpus: float | None = None
    address: str = "local"
    runtime_env: Mapping[str, Any] = field(default_factory=dict)
    elsewhere: ClassVar[bool] = True

    @contextmanager
    def team(self, assignments: Sequence[Assignment], hear: Hear) -> Iterator[Team]:
        """Start the actors; a cluster that was started for them ends with them."""
        with self._cluster() as (ray, environment):
            team = _Actors(ray, self.workers, self._options(environment), assignments, hear)
            try:
                yield team
            finally:
                team.end()

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Made by a worker of the cluster; with one of this machine alone, in a process, which starts sooner."""
        if self.address == "local":
            return aside(function, *arguments)
        from ray.exceptions import RayError

        with self._cluster() as (ray, environment):
            task = ray.remote(_answer_in).options(**self._options(environment), max_retries=0)
            try:
                answer: Result | NbenchError = ray.get(task.remote(_folder(environment), function, arguments))
            except RayError as error:
                raise _failure(error) from None
        if isinstance(answer, NbenchError):
            raise answer
        return answer

    def _options(self, environment: Mapping[str, Any]) -> dict[str, Any]:
        """Of Ray, for a worker."""
        import ray

        gpus = min(1.0, ray.cluster_resources().get("GPU", 0.0)) if self.gpus is None else self.gpus
        return {"num_gpus": gpus, "num_cpus": 1} | ({"runtime_env": dict(environment)} if environment else {})

    @contextmanager
    def _cluster(self) -> Iterator[tuple[Any, Mapping[str, Any]]]:
        """Ray, connected to the cluster, and what each worker needs of `runtime_env` then: all of it, if this process
        was connected before; else nothing, as a connection takes it for all (and only so uploads folders).

        A cluster that was started for the workers ends with them.
        """
        try:
            import ray
        except ImportError:
            raise NbenchError("--engine ray needs Ray: pip install 'nbench[ray]'") from None
        os.environ |= {name: value for name, value in _QUIET.items() if name not in os.environ}
        if ray.is_initialized():
            yield ray, self.runtime_env
            return
        settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "include_dashboard": False}
        try:
            ray.init(self.address, runtime_env=dict(self.runtime_env) or None, **settings)
        except Exception as error:  # Ray raises a dozen unrelated types
            raise NbenchError(f"cannot reach a Ray cluster at {self.address}: {reason_of(error)}") from None
        try:
            yield ray, {}
        finally:
            ray.shutdown()


def _folder(environment: Mapping[str, Any]) -> str | None:
    """Where workers run if it is there, so that a relative path names the same file; None: where Ray puts them."""
    import ray

    placed = "working_dir" in {**ray.get_runtime_context().runtime_env, **environment}
    return None if placed else str(Path.cwd())


def _answer_in(folder: str | None, function: Callable[..., Result], arguments: Sequence[Any]) -> Result | NbenchError:
    _enter(folder)
    return answer_of(function, arguments)


def _enter(folder: str | None) -> None:
    if folder is not None and Path(folder).is_dir():
        os.chdir(folder)


def _failure(error: Any) -> NbenchError:
    """The error for what a worker raised, or for what keeps Ray from running it."""
    return NbenchError(f"Ray cannot run a worker: {reason_of(getattr(error, 'cause', None) or error)}")


class _Metrics:
    """What Ray's metrics show by job: rows and bytes made, failed attempts, seconds per row and per step."""

    def __init__(self) -> None:
        from ray.util.metrics import Counter, Histogram

        def counter(name: str, what: str) -> Any:
            return Counter(f"nbench_{name}", what, ("job",))

        self._rows, self._bytes = counter("rows", "Rows made."), counter("bytes", "Bytes of finished shards.")
        self._failures = counter("failures", "Attempts at a unit that failed.")
        self._seconds = Histogram("nbench_row_seconds", "Seconds per row.", _SECONDS, ("job",))
        step = "Seconds per denoiser step of one trajectory."
        self._steps = Histogram("nbench_step_seconds", step, _SECONDS, ("job",))

    def step(self, job: str, seconds: float) -> None:
        self._steps.observe(seconds, {"job": job})

    def note(self, job: str, outcome: Outcome, rows: float, seconds: float) -> None:
        tags = {"job": job}
        if outcome.state == "failed":
            self._failures.inc(tags=tags)
        if outcome.state != "done":
            return
        if outcome.bytes:
            self._bytes.inc(outcome.bytes, tags)
        if rows:
            self._rows.inc(rows, tags)
            self._seconds.observe(seconds / rows, tags)


class _Remote:
    """A worker in an actor."""

    def __init__(self, assignments: Sequence[Assignment], folder: str | None = None) -> None:
        _enter(folder)
        self._metrics, self._titles = _Metrics(), [assignment.title for assignment in assignments]
        self._reports, self._title = list[Report](), ""
        context = Context(
            say=lambda text: self._reports.append(Report(self._worker.name, note=text)),
            advance=lambda rows: self._reports.append(Report(self._worker.name, rows=rows)),
            step=lambda seconds: self._metrics.step(self._title, seconds),
        )
        self._worker = Shift(assignments, context)

    def ping(self) -> str:
        return self._worker.name

    def run(self, task: Task) -> list[Report]:
        """Make a unit: what was said and counted, then the outcome."""
        self._reports.clear()
        self._title = self._titles[task.job]
        began = time.monotonic()
        outcome = self._worker.run(task)
        rows, seconds = sum(report.rows for report in self._reports), time.monotonic() - began
        self._metrics.note(self._title, outcome, rows, seconds)
        return [*self._reports, Report(self._worker.name, outcome)]


@dataclass
class _Seat:
    actor: Any
    call: Any
    name: str = ""
    task: Task | None = None


class _Actors:
    """The actors, each of which has one call in flight: a ping, a unit, or none when it is idle."""

    def __init__(
        self, ray: Any, workers: int | None, options: dict[str, Any], assignments: Sequence[Assignment], hear: Hear
    ) -> None:
        self._ray, self._hear = ray, hear
        there, gpus = ray.cluster_resources().get("GPU", 0.0), options["num_gpus"]
        remote: Any = ray.remote(_Remote).options(**options, max_restarts=-1, max_task_retries=0)
        folder = _folder(options.get("runtime_env", {}))
        actors = [
            remote.remote(assignments, folder) for _ in range(workers or max(1, int(there / gpus) if gpus else 1))
        ]
        self._seats = [_Seat(actor, actor.ping.remote()) for actor in actors]

    def idle(self) -> Sequence[str]:
        return [seat.name for seat in self._seats if seat.call is None]

    def give(self, worker: str, task: Task) -> None:
        seat = next(seat for seat in self._seats if seat.name == worker and seat.call is None)
        seat.task, seat.call = task, seat.actor.run.remote(task)

    def wait(self, seconds: float) -> None:
        calls = {seat.call: seat for seat in self._seats if seat.call is not None}
        if not calls:
            time.sleep(seconds)
            return
        ready, _ = self._ray.wait(list(calls), num_returns=1, timeout=seconds)
        for call in ready:
            self._answered(calls[call])

    def end(self) -> None:
        for seat in self._seats:
            self._ray.kill(seat.actor)

    def _answered(self, seat: _Seat) -> None:
        from ray.exceptions import RayActorError, RayError

        call, task, seat.call, seat.task = seat.call, seat.task, None, None
        try:
            answer = self._ray.get(call)
        except RayActorError as error:
            name, seat.name = seat.name, ""
            if task is not None:
                self._hear(Report(name, death=f"its worker died ({reason_of(error)})"))
            elif "creation task" in str(error):
                raise NbenchError(f"a worker of Ray cannot start: {reason_of(error)}") from None
            else:
                time.sleep(_RESTARTING)
            seat.call = seat.actor.ping.remote()  # only an actor that answers is idle
            return
        except RayError as error:
            raise _failure(error) from None
        if task is None:
            seat.name = answer
            return
        for report in answer:
            self._hear(report)
