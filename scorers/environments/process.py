"""A scorer in a process of another Python: asked through pipes and shared memory, and restarted once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...console import say
from ...errors import NbenchError, failure_of
from .messages import Call, Hello, NotTheProtocol, RemoteError, read_hello, remote_error
from .pipes import Died, ScorerProcess, timeout_seconds
from .shared_memory import SLOTS, SharedMemory

_SCORER_FAILS = (RemoteError, torch.OutOfMemoryError)


class WorkerProcess:
    """The scorer of `factory` (FILE.py:CLASS or MODULE:CLASS) in a process of `python`; a `Transport`.

    A process that ends is replaced once per call. What it prints goes to standard error. It ends with this object and
    with nbench, however nbench ends.

    Args:
        label: names the scorer in messages.
        request: of `hello_request`.

    Raises:
        NbenchError: there is no such Python, or the scorer cannot be created there.
    """

    def __init__(self, python: Path, factory: str, label: str, request: Mapping[str, Any]) -> None:
        self._python, self._label = python, label
        self._request = dict(request) | {"factory": factory}
        self._timeout = timeout_seconds()
        self._memory = SharedMemory()
        self._process: ScorerProcess | None = None
        self.hello: Hello | None = None
        self._start()

    def run(self, calls: Sequence[Call]) -> list[np.ndarray]:
        """The arrays that `calls` return, in order; the next call's inputs are handed over while one is at work.

        Raises:
            NbenchError: the process ended twice, is silent, or breaks the protocol.
            RemoteError: the scorer failed.
        """
        arrays: list[np.ndarray] = []
        deaths = 0
        while True:
            try:
                if self._process is None:
                    self._start()
                for array in self._answers(calls[len(arrays) :]):
                    arrays.append(array)
                    deaths = 0
                return arrays
            except Died as death:
                self._stop()
                deaths += 1
                if deaths > 1:
                    raise NbenchError(f"scorer {self._label}: its process ended again: {death}") from None
                say(f"scorer {self._label}: its process ended and is started again: {death}", error=True)
            except NotTheProtocol as error:
                self._stop()
                raise NbenchError(f"scorer {self._label}: its process broke the protocol with {error}") from None
            except _SCORER_FAILS:
                raise
            except BaseException:  # it may be at work on calls that nobody waits for
                self._stop()
                raise

    def _answers(self, calls: Sequence[Call]) -> Iterator[np.ndarray]:
        process = self._process
        assert process is not None
        self._memory.reserve(max((call.inputs.nbytes for call in calls if call.inputs is not None), default=0))
        waiting: deque[int] = deque()
        try:
            for number, call in enumerate(calls):
                if len(waiting) == SLOTS:
                    yield process.reply(waiting.popleft(), self._timeout)
                header = call.header()
                if call.inputs is not None:
                    header["inputs"] = self._memory.put(call.inputs, number % SLOTS)
                waiting.append(process.send(header, self._timeout))
            while waiting:
                yield process.reply(waiting.popleft(), self._timeout)
        except _SCORER_FAILS:
            for number in waiting:  # or the next call would get these replies
                with suppress(*_SCORER_FAILS):
                    process.reply(number, self._timeout)
            raise

    def _start(self) -> None:
        process = ScorerProcess(self._python, self._memory.descriptor, self._label)
        try:
            header = process.header(process.send(self._request, self._timeout), self._timeout, loading=True)
        except Died as death:
            process.stop()
            raise NbenchError(f"scorer {self._label} cannot be created: its process ended: {death}") from None
        except (NotTheProtocol, NbenchError) as error:
            process.stop()
            raise NbenchError(f"scorer {self._label} cannot be created: {error}") from None
        if "error" in header:
            process.stop()
            cause = remote_error(header["error"])
            raise NbenchError(f"scorer {self._label} cannot be created: {failure_of(cause)}") from cause
        hello = read_hello(header.get("hello"), f"scorer {self._label}")
        if self.hello is not None and self.hello.fingerprint != hello.fingerprint:
            process.stop()
            raise NbenchError(f"scorer {self._label} changed while it was in use: run the command again")
        self.hello, self._process = hello, process

    def _stop(self) -> None:
        if self._process is not None:
            self._process.stop()
            self._process = None
