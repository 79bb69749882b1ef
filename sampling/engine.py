"""Best-of-N for many requests at a time: their candidates share the denoiser's batches."""

from __future__ import annotations

import atexit
import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

from ..errors import NbenchError
from ..pipelines.pruning import refuse_caches, reserved
from ..scorers.protocols import Reads, Scorer
from ..shards.schema import PreviewMap
from .bestofn import BestOfN, BestOfNResult, pairs_of
from .engine_loop import EngineStats, Loop
from .engine_runs import Place, Request
from .policy import Policy
from .pruned_batch import Progress, Task
from .waves import Waves


class Engine:
    """Runs Best-of-N for requests of several threads over one set of weights.

        with nbench.Engine(pipe, "noisyclip", "10:3,20:1", num_inference_steps=50) as engine:
            for result in engine.map(prompts): ...

    Stock pipeline calls run in turns. At the denoiser, the remaining candidates of all calls make one batch, each with
    its own timestep; on a processor two batches, each computed by half of its threads. When candidates are dropped,
    those of the next prompts take their rows. Images are those of `BestOfN.best` up to rounding. The scorer and other
    models than the denoiser run one call at a time; callbacks of futures and `progress` run in the engine too and must
    not wait for its results. They may close it.

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
        scorer: Scorer | str | Callable[[Any, Sequence[str]], Any],
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
        reads: Reads = "preview",
        **arguments: Any,
    ) -> None:
        if queue < 1:
            raise NbenchError(f"a queue of {queue} holds no request: let 1 or more wait")
        self._arguments, self._room = arguments, queue
        with contextlib.ExitStack() as entered:
            entered.enter_context(reserved(pipe))
            refuse_caches(pipe)
            own = Place(pipe)  # never runs a call: what is asked of the pipeline beside the runs
            self._bestofn = BestOfN(
                own.pipe, scorer, n, policy, keep, None, accept, budget, restart, seed, preview, reads
            )
            self.max_batch = 4 * self._bestofn.policy.of(n) if max_batch is None else max_batch
            self._bestofn.max_batch = self.max_batch
            self._bestofn.rules(arguments)  # refuses what does not fit, and loads the scorer
            self._loop = Loop(pipe, own, self._bestofn, self.max_batch, queue)
            self._loop.start(entered.pop_all())
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
        request = self._request(prompt, prompt_id, seed, keep, progress, arguments)
        self._loop.add(request)
        return request.future

    def map(
        self, prompts: Iterable[str], prompt_ids: Iterable[str] | None = None, **arguments: Any
    ) -> Iterator[BestOfNResult]:
        """The results of `prompts`, in order. As many are submitted ahead as the queue holds.

        Raises:
            NbenchError: as of `BestOfN.best`; the prompts after it are cancelled.
        """
        pairs = pairs_of(prompts, prompt_ids)
        futures = deque[Future[BestOfNResult]]()
        try:
            first = [self._request(*pair, None, None, None, arguments) for pair in pairs[: self._room]]
            futures.extend(request.future for request in first)
            self._loop.add_all(first)  # so that they begin together, not one while the next is on its way
            for pair in pairs[self._room :]:
                yield futures.popleft().result()
                request = self._request(*pair, None, None, None, arguments)
                futures.append(request.future)
                self._loop.add_all([request])
            while futures:
                yield futures.popleft().result()
        finally:
            for future in futures:
                future.cancel()

    @property
    def stats(self) -> EngineStats:
        """What the engine has done and holds now."""
        return self._loop.stats

    @property
    def is_open(self) -> bool:
        """Whether it takes requests."""
        return not self._loop.closed

    def close(self, cancel: bool = False) -> None:
        """End the engine when its requests have ended; `cancel` ends them now. Further requests are refused.

        In a callback it returns at once.
        """
        if self._loop.close(cancel):
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
        ((prompt, prompt_id),) = pairs_of([prompt], None if prompt_id is None else [prompt_id])
        seed = self._bestofn.seed if seed is None else seed
        task = Task(prompt, prompt_id, seed, waves, cancelled=future.cancelled, progress=progress)
        return Request(task, arguments, future)
