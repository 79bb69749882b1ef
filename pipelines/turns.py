"""Runs functions in threads that take turns: one at a time, each until it asks a question, so that nothing is shared
by two at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Compute:
    """A question whose answer is that of `function()`."""

    function: Callable[[], Any]


class Turn:
    """One function in its thread.

    Attributes:
        question: what it waits for; None: it has not begun, or it has ended.
        ended: whether the function has returned.
    """

    def __init__(self, back: threading.Semaphore) -> None:
        self.question: Any = None
        self.ended = False
        self._go, self._back = threading.Semaphore(0), back
        self._answer: Any = None

    def ask(self, question: Any) -> Any:
        """In the function: wait for the answer to `question`; one that is an exception is raised."""
        self.question = question
        self._back.release()
        self._go.acquire()
        answer, self._answer = self._answer, None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def compute(self, function: Callable[[], Any]) -> Any:
        """In the function: `function()`, run in a thread that computes for several turns.

        Each thread that computes would start as many threads of OpenMP as there are cores.
        """
        return self.ask(Compute(function))

    def run(self, function: Callable[[Turn], None]) -> None:
        self._go.acquire()
        try:
            function(self)
        finally:
            self.question, self.ended = None, True
            self._back.release()

    def advance(self, answer: Any = None) -> None:
        """Let it run until it asks something or ends; `answer` is that of its question."""
        self.question, self._answer = None, answer
        self._go.release()
        self._back.acquire()


class Turns:
    """Threads for functions that take turns; as many as there are functions at a time."""

    def __init__(self, name: str) -> None:
        self._threads = ThreadPoolExecutor(1 << 16, thread_name_prefix=name)

    def start(self, function: Callable[[Turn], None]) -> Turn:
        """`function` will be called with its turn at the first `advance`. It must not raise."""
        turn = Turn(threading.Semaphore(0))
        self._threads.submit(turn.run, function)
        return turn

    def close(self) -> None:
        """End the threads; every function must have ended."""
        self._threads.shutdown()
