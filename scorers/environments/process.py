"""A scorer in a process of another Python: started, asked through pipes and shared memory, watched, restarted once."""

from __future__ import annotations

import json
import mmap
import os
import select
import signal
import subprocess
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...console import say
from ...errors import NbenchError, failure_of, one_line
from . import worker
from .messages import (
    LONGEST_LINE,
    Call,
    Hello,
    NotTheProtocol,
    RemoteError,
    input_array,
    read_header,
    read_hello,
    remote_error,
    reply_array,
    reply_bytes,
)

SLOTS = 2
"""Parts of the shared memory: one is filled while the scorer works on another."""
TIMEOUT = "NBENCH_SCORER_TIMEOUT"
_SECONDS = 900.0
_SCORER_FAILS = (RemoteError, torch.OutOfMemoryError)
_ALIGNMENT = 4096
_TAIL = 2000
"""Bytes kept of what the process prints last."""
_POLL_SECONDS = 0.5


class Died(Exception):
    """The process has ended."""


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
        self._memory = _SharedMemory()
        self._process: _Process | None = None
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
        process = _Process(self._python, self._memory.descriptor, self._label)
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


class _Process:
    """The process, its pipes, and the last of what it printed."""

    def __init__(self, python: Path, memory: int, label: str) -> None:
        request_end, self._requests = os.pipe()
        self._replies, reply_end = os.pipe()
        inherited = (request_end, reply_end, memory)
        try:
            self._process = subprocess.Popen(
                [python, Path(worker.__file__).resolve(), *map(str, inherited)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=inherited,
                start_new_session=True,  # so that Ctrl-C reaches nbench alone, which ends it
            )
        except OSError as error:
            for descriptor in (self._requests, self._replies):
                os.close(descriptor)
            raise NbenchError(f"no Python at {python} ({failure_of(error)}): give an environment's python") from None
        finally:
            os.close(request_end)
            os.close(reply_end)
        os.set_blocking(self._requests, False)
        self._number, self._rest, self._label = 0, bytearray(), label
        self._printed = Printed(self._process.stdout)
        self.stop = weakref.finalize(self, _end, self._process, (self._requests, self._replies))

    def send(self, header: dict[str, Any], timeout: float) -> int:
        """Send a request; returns its number.

        Raises:
            Died: the process has ended.
            NbenchError: it does not take the request for `timeout` seconds.
        """
        self._number += 1
        data = memoryview(json.dumps(header | {"id": self._number}).encode() + b"\n")
        deadline = time.monotonic() + timeout
        while data:
            self._wait([], [self._requests], deadline, timeout, loading=False)
            try:
                data = data[os.write(self._requests, data) :]
            except BrokenPipeError:
                raise self._death() from None
        return self._number

    def header(self, number: int, timeout: float, loading: bool = False) -> dict[str, Any]:
        """The line of the reply to request `number`; with `loading`, printing counts as a sign of life.

        Raises:
            Died: the process has ended.
            NbenchError: it is silent for `timeout` seconds.
            NotTheProtocol: the line is something else.
        """
        deadline = time.monotonic() + timeout
        while (end := self._rest.find(b"\n")) < 0:
            if len(self._rest) > LONGEST_LINE:
                raise NotTheProtocol(f"a line of more than {LONGEST_LINE} bytes")
            self._read(deadline, timeout, loading)
        line = bytes(self._rest[:end])
        del self._rest[: end + 1]
        return read_header(line, number)

    def reply(self, number: int, timeout: float) -> np.ndarray:
        """The array of the reply to request `number`.

        Raises:
            Died, NbenchError, NotTheProtocol: as `header`.
            RemoteError: the scorer failed.
        """
        header = self.header(number, timeout)
        size = reply_bytes(header)
        deadline = time.monotonic() + timeout
        while len(self._rest) < size:
            self._read(deadline, timeout, loading=False)
        body = self._rest[:size]
        del self._rest[:size]
        return reply_array(header, body)

    def _read(self, deadline: float, timeout: float, loading: bool) -> None:
        self._wait([self._replies], [], deadline, timeout, loading)
        data = os.read(self._replies, 2**20)
        if not data:
            raise self._death()
        self._rest += data

    def _wait(self, readable: list[int], writable: list[int], deadline: float, timeout: float, loading: bool) -> None:
        while not any(select.select(readable, writable, [], _POLL_SECONDS)):
            if self._process.poll() is not None and not any(select.select(readable, writable, [], 0)):
                raise self._death()  # a process that it had started may keep the pipe open
            last = max(deadline, self._printed.at + timeout) if loading else deadline
            if time.monotonic() > last:
                self.stop()
                raise NbenchError(
                    f"scorer {self._label} did not answer for {timeout:g} seconds and was stopped{self._printed.last}: "
                    f"use a smaller --batch-size, or set {TIMEOUT} to more seconds"
                )

    def _death(self) -> Died:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        code = self._process.returncode
        how = f"exit code {code}" if code is None or code >= 0 else f"killed by {signal.Signals(-code).name}"
        return Died(f"{how}{self._printed.last}")


class Printed:
    """Copies what a process prints to standard error and remembers the end of it."""

    def __init__(self, stream: Any) -> None:
        self.at = time.monotonic()
        self._tail = b""
        self._thread = threading.Thread(target=self._copy, args=(stream,), daemon=True)
        self._thread.start()

    @property
    def last(self) -> str:
        """The last line, as the end of a message."""
        self._thread.join(0.2)  # until it has read all of a process that has ended
        lines = [line.strip() for line in self._tail.decode(errors="replace").splitlines() if line.strip()]
        return f"; it last printed: {one_line(lines[-1], 200)}" if lines else ""

    def _copy(self, stream: Any) -> None:
        with stream:
            while data := os.read(stream.fileno(), 2**16):
                self.at, self._tail = time.monotonic(), (self._tail + data)[-_TAIL:]
                with suppress(OSError):
                    os.write(2, data)


class _SharedMemory:
    """A block of memory that processes share by its descriptor, in `SLOTS` parts; nothing of it is left behind."""

    def __init__(self) -> None:
        if hasattr(os, "memfd_create"):
            self.descriptor = os.memfd_create("nbench-scorer")
        else:
            with tempfile.TemporaryFile() as file:
                self.descriptor = os.dup(file.fileno())
        self._slot_bytes, self._numbers = 0, np.empty(0, np.uint8)
        weakref.finalize(self, os.close, self.descriptor)

    def reserve(self, size: int) -> None:
        """Make each slot hold `size` bytes; no request may be at work."""
        if size > self._slot_bytes:
            self._slot_bytes = -(-size // _ALIGNMENT) * _ALIGNMENT
            os.ftruncate(self.descriptor, SLOTS * self._slot_bytes)
            self._numbers = np.frombuffer(mmap.mmap(self.descriptor, SLOTS * self._slot_bytes), np.uint8)

    def put(self, inputs: torch.Tensor, slot: int) -> dict[str, Any]:
        """Copy inputs to a slot that holds them; returns their description."""
        values, described = input_array(inputs)
        start = slot * self._slot_bytes
        if described["bytes"]:
            target = torch.from_numpy(self._numbers[start : start + described["bytes"]])
            target.view(values.dtype).view(values.shape).copy_(values)
        return described | {"at": start}


def timeout_seconds() -> float:
    """Seconds that a scorer in another process may be silent.

    Raises:
        NbenchError: the environment variable is not a positive number.
    """
    text = os.environ.get(TIMEOUT) or str(_SECONDS)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise NbenchError(f"{TIMEOUT}={one_line(text, 40)} is not a number of seconds: give one above 0")
    return seconds


def _end(process: subprocess.Popen[bytes], descriptors: Sequence[int]) -> None:
    """End a process and those that it started; it cannot be asked to, as it may be at work."""
    with suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for descriptor in descriptors:
        os.close(descriptor)
