"""One stock pipeline call among those of an engine: its view of the pipeline, its turn, and the requests it is for."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from ..errors import NbenchError
from ..pipelines.batch_axes import axes_of
from ..pipelines.batch_rows import BatchAxes
from ..pipelines.joined_calls import Rows
from ..pipelines.pipe_view import Forward, pipeline_view
from ..pipelines.replaced_method import replace_method
from ..pipelines.turns import Turn
from .bestofn import BestOfN, BestOfNResult, result_of
from .pruned_batch import Batch, Task
from .waves import Rules, Waves


@dataclass(frozen=True, eq=False)
class Request:
    """A prompt, and the future that its result goes to. `alone`: it was in a run of several that failed."""

    task: Task
    arguments: dict[str, Any]
    future: Future[BestOfNResult]
    alone: bool = False

    @property
    def rules(self) -> Rules:
        return self.task.waves.rules

    @property
    def key(self) -> Hashable:
        """Requests with equal keys may share a call of the pipeline."""
        return self.rules, _identity(self.arguments)

    @property
    def single(self) -> bool:
        """Whether it needs a call of its own: a failure must be traced, or a padded batch counts on its budget."""
        return self.alone or (self.rules.compiled and self.rules.budget is not None)

    def again(self) -> Request:
        """The request from its start, to run alone."""
        task = self.task
        fresh = Task(
            task.prompt, task.prompt_id, task.seed, Waves(self.rules), cancelled=task.cancelled, progress=task.progress
        )
        return replace(self, task=fresh, alone=True)


def _identity(value: Any) -> Hashable:
    """Equal for what surely is the same: numbers and text by value, others as objects.

    The repr of a tensor or an array shows a few of its numbers, in a few digits.
    """
    if isinstance(value, Mapping):
        return tuple((name, _identity(value[name])) for name in sorted(value))
    if isinstance(value, (list, tuple)):
        return (type(value), *map(_identity, value))
    return repr(value) if value is None or isinstance(value, (bool, int, float, str)) else id(value)


@dataclass(frozen=True)
class Denoise:
    """The question of a run for the output of `module`, a denoiser, for `rows`."""

    module: torch.nn.Module
    rows: Rows


class Place:
    """A view of the pipeline for one call at a time. Without a turn its models compute at once."""

    def __init__(self, pipe: Any) -> None:
        self.turn: Turn | None = None
        self.axes: BatchAxes | None = None
        self.pipe = pipeline_view(pipe, self._denoise, self._compute)

    def _denoise(self, module: torch.nn.Module) -> Forward:
        def forward(*args: Any, **kwargs: Any) -> Any:
            assert self.turn is not None
            assert self.axes is not None
            return self.turn.ask(Denoise(module, Rows((args, kwargs), self.axes)))

        return forward

    def _compute(self, function: Forward) -> Forward:
        def forward(*args: Any, **kwargs: Any) -> Any:
            run = partial(function, *args, **kwargs)
            return run() if self.turn is None else self.turn.compute(run)

        return forward


class Run:
    """The call of a pipeline for requests with equal keys. `ended` is told of each request's outcome.

    Requests whose call fails begin again, each alone, so that one that fails harms no other: `again` is told of them.
    """

    def __init__(
        self,
        requests: list[Request],
        place: Place,
        bestofn: BestOfN,
        ended: Callable[[Request, BestOfNResult | BaseException], None],
        again: Callable[[list[Request]], None],
    ) -> None:
        self.requests, self.place = requests, place
        self._bestofn, self._ended, self._again = bestofn, ended, again
        self._batch: Batch | None = None

    @property
    def living(self) -> int:
        """The candidates that go on."""
        return 0 if self._batch is None else self._batch.living

    @property
    def demand(self) -> int:
        """The most candidates that it may still run at a time."""
        rules = self.requests[0].rules
        redraws = rules.redraws and not (self._batch and self._batch.recalled)
        if self._batch is None or redraws or rules.size < rules.n:  # another wave may follow
            return rules.size * len(self.requests)
        return self._batch.living

    def __call__(self, turn: Turn) -> None:
        """Run to the end, in a thread of its own."""
        self.place.turn = turn
        try:
            outcomes = self._results(turn)
        except BaseException as error:
            living = [request for request in self.requests if not request.future.cancelled()]
            if len(living) > 1:
                self._again([request.again() for request in living])
                return
            outcomes = [error] * len(self.requests)
        finally:
            self.place.turn = None
        for request, outcome in zip(self.requests, outcomes, strict=True):
            self._ended(request, outcome)

    def _results(self, turn: Turn) -> list[BestOfNResult | BaseException]:
        start, live, arguments = time.perf_counter(), self._bestofn.live(), self.requests[0].arguments
        score = live.score
        replace_method(live, "score", lambda *args: turn.compute(partial(score, *args)))
        pipe, tasks = self.place.pipe, [request.task for request in self.requests]
        self.place.axes = axes_of(pipe, arguments)
        while (batch := Batch(pipe, live, tasks, arguments)).rows:
            self._batch = batch
            batch.run()
        share = time.perf_counter() - start, live.seconds / len(tasks)
        outcomes: list[BestOfNResult | BaseException] = []
        for task in tasks:
            try:
                outcomes.append(result_of(task, self._bestofn.n, *share))
            except NbenchError as error:  # nothing was selected, or it was cancelled
                outcomes.append(error)
        return outcomes
