"""A proxy in front of an HTTP server: it counts requests and injects faults."""

from __future__ import annotations

import re
import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

Kind = Literal["status", "slow", "cut", "lost", "short", "gone"]


@dataclass
class Fault:
    """What goes wrong with `times` requests, `skip` of them later; `request`: a regular expression for "METHOD /path".

    `status` answers with it, without asking the server; `slow` waits `seconds` in the middle of the request's body;
    `cut` drops the connection there; `lost` lets the server do it and drops the answer; `short` sends half of the
    answer's body; `gone` drops the connection at once.
    """

    request: str
    kind: Kind
    status: int = 503
    seconds: float = 0.5
    times: int = 1
    skip: int = 0


@dataclass
class FaultProxy:
    """Serves `endpoint` in place of `server` (a URL) while the context is open; `requests`: "METHOD /path?query"."""

    server: str
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._http = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> FaultProxy:
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def count(self, pattern: str = "") -> int:
        """How many requests match."""
        return sum(bool(re.search(pattern, request)) for request in self.requests)

    def strike(self, request: str) -> Fault | None:
        """Note a request, and take the fault that hits it."""
        with self._lock:
            self.requests.append(request)
            for fault in self.faults:
                if fault.times and re.search(fault.request, request):
                    fault.skip -= 1
                    if fault.skip < 0:
                        fault.times -= 1
                        return fault
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that are killed are no news."""


class _Handler(BaseHTTPRequestHandler):
    proxy: FaultProxy
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _serve(self) -> None:
        fault = self.proxy.strike(f"{self.command} {self.path}")
        kind = fault.kind if fault else ""
        if kind == "gone":
            return self._drop()
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length // 2)
        if kind == "cut":
            return self._drop()
        if fault and kind == "slow":
            time.sleep(fault.seconds)
        body += self.rfile.read(length - len(body))
        if fault and kind == "status":
            return self._answer(fault.status, {"Content-Length": "0"}, b"")
        server = HTTPConnection(urlsplit(self.proxy.server).netloc, timeout=60)
        with suppress(BrokenPipeError, ConnectionResetError):
            server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                server.putheader(name, value)
            server.endheaders(body)
            answer: HTTPResponse = server.getresponse()
            content = answer.read()
            if kind == "lost":
                return self._drop()
            headers = {name: value for name, value in answer.getheaders() if name.lower() not in _OWN}
            if self.command == "HEAD":
                headers["Content-Length"] = answer.getheader("Content-Length") or "0"
            else:
                headers["Content-Length"] = str(len(content))
            self._answer(answer.status, headers, content[: len(content) // 2] if kind == "short" else content)
            if kind == "short":
                return self._drop()
        server.close()
        return None

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _drop(self) -> None:
        """Close the connection as a dead machine does: with a reset."""
        self.close_connection = True
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


_OWN = {"content-length", "transfer-encoding", "connection", "date", "server", "keep-alive"}
"""Headers between two machines, which the proxy sets itself."""
