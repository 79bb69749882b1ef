"""The thread of an engine: it starts the calls of its requests, and computes what they wait for."""

from __future__ import annotations

import contextlib
import math
import threading
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import torch

from ..errors import NbenchError
from ..pipelines.denoisers import denoisers
from ..pipelines.joined_calls import JoinedCalls
from ..pipelines.lanes import Lanes, lanes_of
from ..pipelines.pruning import is_compiled
from ..pipelines.turns import Turn, Turns
from .bestofn import BestOfN, BestOfNResult
from .engine_queue import RequestQueue
from .engine_runs import Denoise, Place, Request, Run

ACTIVATIONS = "the scorer reads activations, which are those of one call at a time"


@dataclass(frozen=True)
class EngineStats:
    """Counts since the engine was opened, and what it holds now.

    Attributes:
        waiting: requests that have not begun.
        running: requests under way, with `candidates` that go on.
        finished, failed, cancelled: requests that have ended.
        calls: denoiser calls of pipelines, answered by `batches` runs of the denoiser.
        rows: rows of these runs; guidance counts twice.
        alone: calls that were not joined although others were waiting, by reason.
    """

    waiting: int
    running: int
    candidates: int
    finished: int
    failed: int
    cancelled: int
    calls: int
    batches: int
    rows: int
    alone: dict[str, int]


Kind = tuple[torch.nn.Module, Hashable]


@dataclass(frozen=True, eq=False)
class _Job:
    """What is computed at once for `turns`: denoiser calls of one `kind`, or (None) a call of another model.

    `misfit`: calls of other kinds only are under way beside it.
    """

    turns: list[Turn]
    kind: Kind | None = None
    misfit: bool = False


class Loop:
    """Runs requests with at most `max_batch` candidates at a time, in a thread that begins with `start`.

    Calls of pipelines run in turns, so none of their state is used by two threads. What they wait for is computed in
    lanes: joined calls of the denoiser in each, and one call of any other model at a time.
    """

    def __init__(self, pipe: Any, own: Place, bestofn: BestOfN, max_batch: int, queue: int) -> None:
        self._pipe, self._bestofn, self._max_batch = pipe, bestofn, max_batch
        self.changed = threading.Condition()  # the lock of all that other threads read
        self._queue, self._runs = RequestQueue(queue, own.pipe, bestofn.pooled), dict[Run, Turn]()
        self._joined = {module: JoinedCalls(module, compiled=is_compiled(pipe)) for module in denoisers(pipe)}
        self._ended, self._alone = Counter[str](), 0
        self.closed = False
        self._places = list[Place]()
        self._waiting = dict[Turn, Kind | None]()  # turns with a question that is not yet computed, by kind
        self._thread = threading.Thread(target=self._serve, name="nbench-engine", daemon=True)
        self._here = threading.local()  # its `own`: whether a thread is the loop's or a run's

    def start(self, entered: contextlib.ExitStack) -> None:
        """Begin to serve requests; at the end `entered` is closed."""
        self._entered = entered
        self._thread.start()

    def add(self, request: Request) -> None:
        """Let a request wait for its start.

        Raises:
            QueueFull: the queue has no room.
            NbenchError: the engine is closed.
        """
        with self.changed:
            if self.closed:
                raise NbenchError("the engine is closed: open another")
            self._queue.add(request)
            self.changed.notify_all()

    def add_all(self, requests: Sequence[Request]) -> None:
        """As `add`, of several at once; where the queue is full, each waits until it has room.

        Raises:
            NbenchError: the engine is closed.
        """
        with self.changed:
            for request in requests:
                self.changed.wait_for(lambda: self.closed or not self._queue.is_full)
                self.add(request)

    def close(self, cancel: bool) -> bool:
        """Take no more requests, and wait until all have ended; `cancel` ends them now.

        Returns:
            Whether they have ended: callbacks, which run in the loop's own threads, do not wait.
        """
        with self.changed:
            self.closed = True
            requests = [*self._queue, *(request for run in self._runs for request in run.requests)] if cancel else []
            self.changed.notify_all()
        for request in requests:
            request.future.cancel()
        if hasattr(self._here, "own"):
            return False
        self._thread.join()
        return True

    @property
    def stats(self) -> EngineStats:
        """What has been done, and what is held now."""
        with self.changed:
            joined = list(self._joined.values())
            alone = sum((each.alone for each in joined), Counter[str]()) + Counter({ACTIVATIONS: self._alone})
            return EngineStats(
                waiting=self._queue.waiting,
                running=sum(len(run.requests) for run in self._runs),
                candidates=sum(run.living for run in self._runs),
                finished=self._ended["finished"],
                failed=self._ended["failed"],
                cancelled=self._ended["cancelled"],
                calls=sum(each.calls for each in joined),
                batches=sum(each.batches for each in joined),
                rows=sum(each.rows for each in joined),
                alone=dict(alone),
            )

    # All that follows runs in the loop's thread, or in that of a run whose turn it is: never two at a time.

    @torch.no_grad()
    def _serve(self) -> None:
        self._here.own = True
        turns, lanes = Turns("nbench-run"), Lanes[_Job](lanes_of(denoisers(self._pipe), is_compiled(self._pipe)))
        with self._entered:
            try:
                while self._begin(turns, lanes.count):
                    self._compute(lanes)
                    for job, answers in lanes.results():
                        for turn, answer in zip(job.turns, answers, strict=True):
                            self._advance(turn, answer)
                    with self.changed:
                        for run in [run for run, turn in self._runs.items() if turn.ended]:
                            del self._runs[run]
                            self._places.append(run.place)
            finally:  # nothing is left, unless the engine itself has failed
                lanes.close()
                stopped = NbenchError("the engine has stopped after an error of its own: open another")
                with self.changed:
                    self.closed = True
                    self.changed.notify_all()
                for turn in self._runs.values():
                    while not turn.ended:
                        turn.advance(stopped)
                for request in self._queue:
                    self._end(request, stopped)
                turns.close()

    def _begin(self, turns: Turns, lanes: int) -> bool:
        """Start as many requests as there is room for; False if nothing is left of a closed engine."""
        started = list[Turn]()
        with self.changed:
            self.changed.wait_for(lambda: self._queue or self._runs or self.closed)
            for request in self._queue.take_cancelled():
                self._end(request, NbenchError("cancelled"))
            while requests := self._next(lanes):
                place = self._places.pop() if self._places else Place(self._pipe)
                run = Run(requests, place, self._bestofn, self._end, self._again)
                self._runs[run] = turns.start(partial(self._take_turns, run))
                started.append(self._runs[run])
            self.changed.notify_all()
            goes_on = bool(self._runs or self._queue or not self.closed)
        for turn in started:
            self._advance(turn)
        return goes_on

    def _take_turns(self, run: Run, turn: Turn) -> None:
        self._here.own = True
        run(turn)

    def _next(self, lanes: int) -> list[Request]:
        """The requests of the next call, which leaves others for further lanes; none if there is no room."""
        if self._runs and self._bestofn.pooled:
            return []
        room = self._max_batch - sum(run.demand for run in self._runs)
        share = math.ceil(self._queue.candidates / max(1, lanes - len(self._runs)))
        requests = self._queue.take(room if self._runs else 1 << 62, min(share, self._max_batch // lanes))
        if self._bestofn.pooled and self._queue:
            self._alone += len(requests)
        return requests

    def _advance(self, turn: Turn, answer: Any = None) -> None:
        turn.advance(answer)
        if isinstance(turn.question, Denoise):
            module, rows = turn.question.module, turn.question.rows
            self._waiting[turn] = (module, self._joined[module].kind(rows))
        elif not turn.ended:
            self._waiting[turn] = None

    def _compute(self, lanes: Lanes[_Job]) -> None:
        """Give each free lane a job; if there is only one call, it has all threads."""
        single = len(self._runs) == 1
        while len(lanes.running) < (1 if single else lanes.count) and (job := self._job(lanes)):
            for turn in job.turns:
                del self._waiting[turn]
            lanes.start(job, partial(self._answers, job), here=single)

    def _job(self, lanes: Lanes[_Job]) -> _Job | None:
        """What to compute next. The lanes share the rows of all calls, so that none of them gets only a few."""
        running = [(turn, job.kind) for job in lanes.running for turn in job.turns]
        other = next((turn for turn, kind in self._waiting.items() if kind is None), None)
        if other is not None and all(kind is not None for _, kind in running):
            return _Job([other])
        asking = [(turn, kind) for turn, kind in self._waiting.items() if kind is not None]
        if not asking:
            return None
        kind, calls = asking[0][1], [*asking, *(call for call in running if call[1] is not None)]
        share = math.ceil(sum(len(turn.question.rows) for turn, _ in calls) / lanes.count)
        alike = [turn for turn, each in asking if each == kind]
        sums = accumulate(len(turn.question.rows) for turn in alike)
        turns = [turn for turn, rows in zip(alike, sums, strict=True) if rows <= share or turn is alike[0]]
        return _Job(turns, kind, misfit=len(calls) > 1 and sum(each == kind for _, each in calls) == 1)

    def _answers(self, job: _Job) -> list[Any]:
        """The answers to what the turns of a job wait for; an exception where a call has raised one."""
        if job.kind is not None:
            module, kind = job.kind
            return self._joined[module].run(kind, [turn.question.rows for turn in job.turns], job.misfit)
        (turn,) = job.turns
        try:
            return [turn.question.function()]
        except BaseException as error:
            return [error]

    def _again(self, requests: list[Request]) -> None:
        with self.changed:
            self._queue.add_first(requests)

    def _end(self, request: Request, outcome: BestOfNResult | BaseException) -> None:
        kind = "failed" if isinstance(outcome, BaseException) else "finished"
        if not request.future.set_running_or_notify_cancel():
            kind = "cancelled"
        with self.changed:
            self._ended[kind] += 1
        if kind == "failed":
            request.future.set_exception(outcome)  # type: ignore[arg-type]
        elif kind == "finished":
            request.future.set_result(outcome)  # type: ignore[arg-type]
