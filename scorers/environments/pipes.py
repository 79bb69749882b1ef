"""A process of another Python with its pipes: requests, replies, silence, death, and the last of what it prints."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import threading
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import NbenchError, failure_of, one_line
from . import worker
from .messages import LONGEST_LINE, NotTheProtocol, read_header, reply_array, reply_bytes

TIMEOUT = "NBENCH_SCORER_TIMEOUT"
_SECONDS = 900.0
_TAIL = 2000
"""Bytes kept of what the process prints last."""
_POLL_SECONDS = 0.5


class Died(Exception):
    """The process has ended."""


class ScorerProcess:
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
