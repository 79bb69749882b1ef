"""A scorer behind one or several URLs of `nbench serve-scorer`: parts of a batch go to whichever server is free."""

from __future__ import annotations

import http.client
import json
import queue
import re
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from urllib.parse import SplitResult, urlsplit

import numpy as np

from ...console import say
from ...errors import NbenchError, failure_of, one_line
from .messages import (
    LARGEST_REPLY,
    LONGEST_LINE,
    Call,
    Hello,
    NotTheProtocol,
    input_array,
    read_header,
    read_hello,
    remote_error,
    reply_array,
    reply_bytes,
)
from .pipes import TIMEOUT, timeout_seconds

_AT_ONCE = 2
"""Requests per server: one is transferred while the scorer works on another."""
_PAUSES = (0.0, 0.5, 1.0, 2.0, 4.0)
"""Seconds before each attempt."""
_TRANSIENT = (429, 502, 503, 504)


def parse_urls(text: str) -> list[str]:
    """The URLs of `http:URL+URL...`; the scheme may be written once, as in http://host:8500.

    Raises:
        NbenchError: something else, or a URL with a password.

    >>> parse_urls("//a:1"), parse_urls("http://a:1+https://b/x")
    (['http://a:1'], ['http://a:1', 'https://b/x'])
    """
    urls = re.split(r"[+,](?=https?://|//)", text)
    urls = [f"http:{url}" if url.startswith("//") else url.rstrip("/") for url in urls]
    for url in urls:
        checked_url(url)
    return urls


def checked_url(url: str) -> SplitResult:
    """The parts of an http or https URL.

    Raises:
        NbenchError: something else, or it has a password.
    """
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid:
        raise NbenchError(f"{one_line(url, 100)} is not a URL: give http://HOST:PORT")
    if "@" in parts.netloc:
        raise NbenchError("a URL with a password would be written to results: leave it out")
    return parts


class Connections:
    """HTTP connections to one URL, one per thread, kept open.

    Args:
        timeout: seconds without an answer.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self.url, self._timeout = url, timeout
        self._parts, self._local = checked_url(url), threading.local()

    def request(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, most: int = 2**30
    ) -> tuple[int, bytearray]:
        """Status and body of the reply, of at most `most` bytes.

        Raises:
            OSError, http.client.HTTPException: no such reply.
        """
        connection = getattr(self._local, "connection", None)
        if connection is None:
            kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
            kind = kinds[self._parts.scheme]
            assert self._parts.hostname is not None
            connection = kind(self._parts.hostname, self._parts.port, timeout=self._timeout)
            self._local.connection = connection
        try:
            connection.request(method, f"{self._parts.path}{path}" or "/", body, dict(headers or {}))
            response = connection.getresponse()
            data = bytearray(response.read(most + 1))
        except BaseException:
            connection.close()
            self._local.connection = None
            raise
        if len(data) > most:
            connection.close()
            raise http.client.HTTPException(f"a reply of more than {most} bytes")
        return response.status, data


class Servers:
    """Servers of one scorer; a `Transport`.

    Args:
        request: of `hello_request`.

    Raises:
        NbenchError: a server cannot be reached, or they serve different scorers.
    """

    def __init__(self, urls: Sequence[str], request: Mapping[str, Any]) -> None:
        timeout = timeout_seconds()
        self._request = dict(request)
        self._servers = [Connections(url, timeout) for url in urls]
        self.hello: Hello | None = None
        for server in self._servers:
            hello = self._hello(server)
            if self.hello is not None and replace(self.hello, versions={}) != replace(hello, versions={}):
                first, second = (
                    f"{one.name} ({one.fingerprint}), which reads {one.reads}" for one in (self.hello, hello)
                )
                raise NbenchError(f"{urls[0]} serves {first}; {server.url} serves {second}: serve one scorer")
            self.hello = hello
        self._free: queue.SimpleQueue[Connections | None] = queue.SimpleQueue()
        for server in self._servers * _AT_ONCE:
            self._free.put(server)
        self._working = len(self._servers) * _AT_ONCE
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(self._working, "nbench-http")

    def run(self, calls: Sequence[Call]) -> list[np.ndarray]:
        """The arrays that `calls` return, in order.

        Raises:
            NbenchError: no server answers, or one breaks the protocol.
            RemoteError: the scorer failed.
        """
        futures = [self._threads.submit(self._call, call) for call in calls]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()

    def _hello(self, server: Connections) -> Hello:
        try:
            header, _ = _post(server, [_line(self._request)])
        except _Unreachable as error:
            raise NbenchError(f"{error}: start `nbench serve-scorer` there") from None
        if "error" in header:
            cause = remote_error(header["error"])
            raise NbenchError(f"{server.url} cannot create its scorer: {failure_of(cause)}") from cause
        return read_hello(header.get("hello"), server.url)

    def _call(self, call: Call) -> np.ndarray:
        header, body = call.header() | {"info": self._request["info"]}, list[memoryview]()
        if call.inputs is not None:
            values, header["inputs"] = input_array(call.inputs)
            body = [values.cpu().contiguous().numpy().data.cast("B")] if values.numel() else []
        header, answer = self._post_to_any([_line(header), *body])
        try:
            return reply_array(header, answer)
        except NotTheProtocol as error:
            raise NbenchError(f"{self._servers[0].url} broke the protocol with {error}") from None

    def _post_to_any(self, data: Sequence[memoryview]) -> tuple[dict[str, Any], bytearray]:
        """The reply of a free server; one that cannot be reached gets no more requests."""
        while (server := self._free.get()) is not None:
            try:
                reply = _post(server, data)
            except _Unreachable as error:
                with self._lock:
                    self._working -= 1
                    if not self._working:
                        self._free.put(None)
                        raise NbenchError(f"{error}: start it again, then run the command again") from None
                say(f"{error}: going on with the other servers", error=True)
                continue
            except BaseException:
                self._free.put(server)
                raise
            self._free.put(server)
            return reply
        self._free.put(None)  # for the next one who waits
        raise NbenchError("no server of the scorer can be reached any more: run the command again")


class _Unreachable(Exception):
    """No answer from a server after all attempts."""


def _post(server: Connections, data: Sequence[memoryview]) -> tuple[dict[str, Any], bytearray]:
    """The reply of a server to a request in pieces, which are not copied together."""
    length = {"Content-Length": str(sum(piece.nbytes for piece in data))}
    for pause in _PAUSES:
        time.sleep(pause)
        try:
            status, reply = server.request("POST", "", data, length, LARGEST_REPLY + LONGEST_LINE)
        except TimeoutError:
            silence = f"{server.url} did not answer for {timeout_seconds():g} seconds"
            raise NbenchError(f"{silence}: use a smaller --batch-size, or set {TIMEOUT} to more seconds") from None
        except (OSError, http.client.HTTPException) as error:
            reason = failure_of(error)
            continue
        if status not in _TRANSIENT:
            return _parsed(server.url, status, reply)
        reason = f"status {status}"
    raise _Unreachable(f"no answer from {server.url} after {len(_PAUSES)} attempts ({reason})")


def _line(header: Mapping[str, Any]) -> memoryview:
    return memoryview(json.dumps(header).encode() + b"\n")


def _parsed(url: str, status: int, reply: bytearray) -> tuple[dict[str, Any], bytearray]:
    try:
        end = reply.find(b"\n", 0, LONGEST_LINE)
        if end < 0:
            raise NotTheProtocol(f"status {status} and no line of JSON")
        line = bytes(reply[:end])
        if status != 200:
            refused = json.loads(line).get("refused")
            raise NbenchError(f"{url} refuses a request (status {status}): {one_line(str(refused), 200)}")
        header, body = read_header(line, None), reply[end + 1 :]
        if reply_bytes(header) != len(body):
            raise NotTheProtocol(f"{len(body)} bytes instead of {reply_bytes(header)}")
    except (NotTheProtocol, ValueError, AttributeError) as error:
        raise NbenchError(f"{url} does not speak nbench's scorer protocol ({failure_of(error)})") from None
    return header, body
