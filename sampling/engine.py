"""Best-of-N for many requests at a time: their candidates share the denoiser's batches."""

from __future__ import annotations

import atexit
import contextlib
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import NbenchError
from ..pipelines.joined_calls import JoinedCalls
from ..pipelines.prompt_groups import prompt_groups
from ..pipelines.pruning import is_compiled, refuse_caches, reserved
from ..pipelines.turns import Turn, Turns
from ..scorers.protocols import Scorer
from ..shards.schema import PreviewMap
from .bestofn import BestOfN, BestOfNResult
from .engine_runs import Place, Request, Run
from .policy import Policy
from .pruned_batch import Progress, Task
from .waves import Waves

ACTIVATIONS = "the scorer reads activations, which are those of one call at a time"


class QueueFull(NbenchError):
    """As many requests are waiting as the engine's queue holds."""


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


class Engine:
    """Runs Best-of-N for requests of several threads over one set of weights.

        with nbench.Engine(pipe, "noisyclip", "10:3,20:1", num_inference_steps=50) as engine:
            for result in engine.map(prompts): ...

    Stock pipeline calls run in turns. At the denoiser, the remaining candidates of all calls make one batch, each with
    its own timestep. When candidates are dropped, those of the next prompts take their rows. Images are those of
    `BestOfN.best` up to rounding. All models run in one thread of the engine; callbacks of futures and `progress` run
    in the engine too and must not wait for it.

    Args:
        max_batch: candidates at a time; None: four times those that a request draws.
        queue: requests that may wait.
        arguments: for the pipeline, unless a request has its own.

    The others are those of `BestOfN`.

    Raises:
        NbenchError: arguments that do not fit together, or a pipeline that cannot be pruned or is in use.
    """

    def __init__(
        self,
        pipe: Any,
        scorer: Scorer | str,
        policy: Policy | str = "20:1",
        n: int = 6,
        keep: int = 1,
        max_batch: int | None = None,
        queue: int = 256,
        accept: float | None = None,
        budget: int | None = None,
        restart: float | None = None,
        seed: int = 0,
        preview: PreviewMap | None = None,
        **arguments: Any,
    ) -> None:
        self._pipe, self._arguments, self._room = pipe, arguments, queue
        with contextlib.ExitStack() as entered:
            entered.enter_context(reserved(pipe))
            refuse_caches(pipe)
            self._own = Place(pipe)  # never runs a call: what is asked of the pipeline beside the runs
            self._bestofn = BestOfN(
                self._own.pipe, scorer, n, policy, keep, None, accept, budget, restart, seed, preview
            )
            self._bestofn.max_batch = self.max_batch = max_batch or 4 * self._bestofn.policy.of(n)
            self._bestofn.rules(arguments)  # refuses what does not fit, and loads the scorer
            self._entered = entered.pop_all()
        self._places = list[Place]()
        self._joined = dict[torch.nn.Module, JoinedCalls]()
        self._state = threading.Condition()
        self._queue, self._runs = deque[Request](), dict[Run, Turn]()
        self._ended, self._alone = Counter[str](), 0
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="nbench-engine", daemon=True)
        self._thread.start()
        atexit.register(self.close, True)

    def submit(
        self,
        prompt: str,
        prompt_id: str | None = None,
        seed: int | None = None,
        keep: int | None = None,
        progress: Callable[[Progress], None] | None = None,
        **arguments: Any,
    ) -> Future[BestOfNResult]:
        """The future best images of `prompt`, which can be cancelled at any time.

        Args:
            prompt_id: the prompt's id in a bench; None: the prompt itself.
            seed: base seed; None: the engine's.
            keep: images to select; None: the engine's.
            progress: told after each step of the request; what it raises fails the request.
            arguments: for the pipeline.

        Raises:
            QueueFull: too many requests are waiting.
            NbenchError: arguments that do not fit, or the engine is closed.
        """
        return self._submit(self._request(prompt, prompt_id, seed, keep, progress, arguments), wait=False)

    def map(
        self, prompts: Iterable[str], prompt_ids: Iterable[str] | None = None, **arguments: Any
    ) -> Iterator[BestOfNResult]:
        """The results of `prompts`, in order. As many are submitted ahead as the queue holds.

        Raises:
            NbenchError: as of `BestOfN.best`; the prompts after it are cancelled.
        """
        prompts = list(prompts)
        futures = deque[Future[BestOfNResult]]()
        try:
            for prompt, prompt_id in zip(prompts, prompts if prompt_ids is None else prompt_ids, strict=True):
                if len(futures) == self._room:
                    yield futures.popleft().result()
                futures.append(self._submit(self._request(prompt, prompt_id, None, None, None, arguments), wait=True))
            while futures:
                yield futures.popleft().result()
        finally:
            for future in futures:
                future.cancel()

    @property
    def stats(self) -> EngineStats:
        """What the engine has done and holds now."""
        with self._state:
            joined = list(self._joined.values())
            alone = sum((each.alone for each in joined), Counter[str]()) + Counter({ACTIVATIONS: self._alone})
            return EngineStats(
                waiting=self._waiting(),
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

    @property
    def is_open(self) -> bool:
        """Whether it takes requests."""
        return not self._closed

    def close(self, cancel: bool = False) -> None:
        """End the engine when its requests have ended; `cancel` ends them now. Further requests are refused."""
        with self._state:
            self._closed = True
            requests = [*self._queue, *(request for run in self._runs for request in run.requests)] if cancel else []
            self._state.notify_all()
        for request in requests:
            request.future.cancel()
        self._thread.join()
        atexit.unregister(self.close)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        self.close(cancel=kind is not None)

    def _request(
        self,
        prompt: str,
        prompt_id: str | None,
        seed: int | None,
        keep: int | None,
        progress: Callable[[Progress], None] | None,
        arguments: dict[str, Any],
    ) -> Request:
        future, arguments = Future[BestOfNResult](), {**self._arguments, **arguments}
        waves = Waves(self._bestofn.rules(arguments, keep))
        seed, prompt_id = self._bestofn.seed if seed is None else seed, prompt if prompt_id is None else prompt_id
        task = Task(prompt, prompt_id, seed, waves, cancelled=future.cancelled, progress=progress)
        return Request(task, arguments, future)

    def _submit(self, request: Request, wait: bool) -> Future[BestOfNResult]:
        with self._state:
            if wait:
                self._state.wait_for(lambda: self._closed or self._waiting() < self._room)
            if self._closed:
                raise NbenchError("the engine is closed: open another")
            if (waiting := self._waiting()) >= self._room:
                raise QueueFull(f"{waiting} requests are waiting, as many as the queue holds: try again later")
            self._queue.append(request)
            self._state.notify_all()
        return request.future

    def _waiting(self) -> int:
        return sum(not request.future.cancelled() for request in self._queue)

    # All that follows runs in the engine's thread, or in that of a run whose turn it is: never two at a time.

    @torch.no_grad()
    def _serve(self) -> None:
        turns = Turns("nbench-run")
        with self._entered:
            try:
                while self._begin(turns):
                    for turn in self._runs.values():
                        if turn.question is None:
                            turn.advance()
                    self._answer([turn for turn in self._runs.values() if turn.question is not None])
                    with self._state:
                        ended = [run for run, turn in self._runs.items() if turn.ended]
                        self._places += [run.place for run in ended]
                        for run in ended:
                            del self._runs[run]
            finally:  # nothing is left, unless the engine itself has failed
                stopped = NbenchError("the engine has stopped after an error of its own: open another")
                with self._state:
                    self._closed = True
                    self._state.notify_all()
                for turn in self._runs.values():
                    while not turn.ended:
                        turn.advance(stopped)
                while self._queue:
                    self._end(self._queue.popleft(), stopped)
                turns.close()

    def _answer(self, turns: list[Turn]) -> None:
        """Run the denoisers for all runs that wait for them, then each run until it waits again or has ended."""
        answers = dict[Turn, Any]()
        for module in dict.fromkeys(turn.question[0] for turn in turns):
            asking = [turn for turn in turns if turn.question[0] is module]
            with self._state:
                joined = self._joined.setdefault(module, JoinedCalls(module, compiled=is_compiled(self._pipe)))
            answers |= zip(asking, joined.run([turn.question[1] for turn in asking]), strict=True)
        for turn in turns:
            turn.advance(answers[turn])

    def _begin(self, turns: Turns) -> bool:
        """Start as many requests as there is room for; False if nothing is left of a closed engine."""
        with self._state:
            self._state.wait_for(lambda: self._queue or self._runs or self._closed)
            while requests := self._next():
                place = self._places.pop() if self._places else Place(self._pipe)
                run = Run(requests, place, self._bestofn, self._end, self._again)
                self._runs[run] = turns.start(run)
            self._state.notify_all()
            return bool(self._runs or self._queue or not self._closed)

    def _next(self) -> list[Request]:
        """The requests of the next call, taken from the queue; none if nobody waits or there is no room."""
        for request in [request for request in self._queue if request.future.cancelled()]:
            self._queue.remove(request)
            self._end(request, NbenchError("cancelled"))
        if not self._queue or (self._runs and self._bestofn.pooled):
            return []
        head = self._queue[0]
        places = (self.max_batch - sum(run.demand for run in self._runs)) // head.rules.size
        if self._runs and places < 1:
            return []
        requests = self._alike(head)[: max(1, places)]
        for request in requests:
            self._queue.remove(request)
        if self._bestofn.pooled and self._queue:
            self._alone += len(requests)
        return requests

    def _alike(self, head: Request) -> list[Request]:
        """The waiting requests that may share a call with the first of them."""
        if head.single:
            return [head]
        alike = [request for request in self._queue if request.key == head.key and not request.alone]
        prompts = [request.task.prompt for request in alike]
        groups = prompt_groups(self._own.pipe, prompts, head.arguments, self._bestofn.pooled)
        return [alike[number] for number in groups[0]]

    def _again(self, requests: list[Request]) -> None:
        with self._state:
            self._queue.extendleft(reversed(requests))

    def _end(self, request: Request, outcome: BestOfNResult | BaseException) -> None:
        kind = "failed" if isinstance(outcome, BaseException) else "finished"
        if not request.future.set_running_or_notify_cancel():
            kind = "cancelled"
        with self._state:
            self._ended[kind] += 1
        if kind == "failed":
            request.future.set_exception(outcome)  # type: ignore[arg-type]
        elif kind == "finished":
            request.future.set_result(outcome)  # type: ignore[arg-type]
