"""A local Hub: an HTTP server that speaks the Hub's protocol to the real clients, and fails on request."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit

from .hub_protocol import TOKEN, Answer, Call, Hub


@dataclass
class Fault:
    """What goes wrong with `times` requests whose method and path match (a regular expression), `skip` of them later.

    `status` answers with it; `cut` drops the connection half way through the body; `lost` does what is asked and drops
    the connection instead of answering; `corrupt` flips a byte of the body; `hang` waits for `HubServer.release`.
    """

    method: str
    path: str
    kind: Literal["status", "cut", "lost", "corrupt", "hang"]
    status: int = 503
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1
    skip: int = 0


class HubServer(Hub):
    """A Hub that is served at `endpoint` while the context is open.

    `requests` lists what was asked as "METHOD /path"; `sent` counts the bytes of answers to GET; `hanging` is set when
    a client runs into a `hang`.
    """

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.sent = 0
        self.hanging, self.release = threading.Event(), threading.Event()
        self.lock = threading.RLock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._http.daemon_threads = True
        super().__init__(f"http://127.0.0.1:{self._http.server_address[1]}")

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.release.set()
        self._http.shutdown()
        self._http.server_close()

    def environment(self, home: Path, token: str | None = TOKEN) -> dict[str, str]:
        """The variables with which a process's Hub clients talk to this server and to nothing else."""
        settings = {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",  # its storage protocol is spoken by a binary client to other hosts
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }
        return settings | ({"HF_TOKEN": token} if token else {})

    def requested(self, pattern: str) -> list[str]:
        """The requests that match, from their beginning."""
        return [request for request in self.requests if re.match(pattern, request)]

    @property
    def writes(self) -> list[str]:
        """The requests that carry content or change a repository."""
        return self.requested(r"PUT|POST .*(/repos/create|/commit/|/branch/|/preupload/|/objects/batch)")

    def strike(self, method: str, path: str) -> Fault | None:
        """Note a request, and take the fault that hits it."""
        with self.lock:
            self.requests.append(f"{method} {path}")
            for fault in self.faults:
                if fault.times and fault.method == method and re.search(fault.path, path):
                    fault.skip -= 1
                    if fault.skip < 0:
                        fault.times -= 1
                        return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _serve(self) -> None:
        url = urlsplit(self.path)
        path, query = unquote(url.path), parse_qs(url.query)
        fault = self.hub.strike(self.command, path)
        if fault and fault.kind == "cut":
            self.rfile.read(int(self.headers.get("Content-Length", 0)) // 2)
            self.close_connection = True
            return
        body = self._body()
        if fault and fault.kind == "hang":
            self.hub.hanging.set()
            self.hub.release.wait()
        if fault and fault.kind == "corrupt":
            body = bytes([body[0] ^ 1]) + body[1:]
        if fault and fault.kind == "status":
            answer = Answer(
                fault.status, {"error": f"{fault.status} for {self.headers['Authorization']}"}, fault.headers
            )
        else:
            with self.hub.lock:
                answer = self.hub.answer(Call(self.hub, self.command, path, query, self.headers, body))
        if fault and fault.kind == "lost":
            self.close_connection = True
        else:
            self._send(answer)

    do_GET = do_HEAD = do_POST = do_PUT = _serve

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, answer: Answer) -> None:
        content = answer.content if isinstance(answer.content, bytes) else json.dumps(answer.content).encode()
        try:
            self.send_response(answer.status)
            for name, value in {"Content-Length": str(len(content)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)
            if self.command == "GET":
                with self.hub.lock:
                    self.hub.sent += len(content)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client is gone, as in a test that kills it
