"""Computes several batches at a time, each in a thread with its share of the processor."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, Generic, TypeVar

import torch

Tag = TypeVar("Tag")
_LANES = 2


class Lanes(Generic[Tag]):
    """Runs jobs, at most `count` at a time; with one lane in the thread that starts them.

    Threads that share an operation wait for each other at its end; threads with a batch each do not. Meanwhile the
    calls that wait for neither take their steps.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._running: dict[Future[Any], Tag] = {}
        self._done: list[tuple[Tag, Any]] = []
        self._threads: ThreadPoolExecutor | None = None
        if count > 1:
            threads, started = torch.get_num_threads(), threading.Barrier(count + 1)
            self._threads = ThreadPoolExecutor(count, "nbench-lane", _share_of, (max(1, threads // count),))
            for _ in range(count):
                self._threads.submit(started.wait)
            started.wait()
            torch.set_num_threads(threads)  # else threads that begin later would have as few

    @property
    def running(self) -> list[Tag]:
        """The jobs that have been started and whose results have not been taken."""
        return [*self._running.values(), *(tag for tag, _ in self._done)]

    def start(self, tag: Tag, job: Callable[[], Any], here: bool = False) -> None:
        """Run `job`, which must not raise; `here`: at once, in this thread with all threads of the processor."""
        if here or self._threads is None:
            self._done.append((tag, job()))
        else:
            self._running[self._threads.submit(torch.no_grad()(job))] = tag

    def results(self) -> list[tuple[Tag, Any]]:
        """What the jobs that have ended returned; waits for one."""
        if self._running and not self._done:
            wait(self._running, return_when=FIRST_COMPLETED)
        ended = [future for future in self._running if future.done()]
        results, self._done = [*self._done, *((self._running.pop(future), future.result()) for future in ended)], []
        return results

    def close(self) -> None:
        """End the threads when their jobs have ended."""
        if self._threads is not None:
            self._threads.shutdown()


def _share_of(threads: int) -> None:
    torch.get_num_threads()  # a thread takes over the number of all threads when it first asks, and not later
    torch.set_num_threads(threads)


def lanes_of(modules: list[torch.nn.Module], compiled: bool) -> int:
    """How many batches of `modules` to compute at a time: one, unless they are on a processor and keep no state in a
    call, which a second call at the same time would disturb. Hooks and adapters with a scale do."""
    parameters = (parameter for module in modules for parameter in module.parameters())
    on_processor = all(parameter.device.type == "cpu" for parameter in parameters)
    if compiled or not on_processor or any(map(_has_state, modules)):
        return 1
    return min(_LANES, torch.get_num_threads())


def _has_state(module: torch.nn.Module) -> bool:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_diffusers_hook", "_hf_hook")
    hooked = any(getattr(part, name, None) for part in module.modules() for name in hooks)
    return hooked or hasattr(module, "peft_config")
