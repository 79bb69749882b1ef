"""`nbench serve-scorer`: any scorer over HTTP, by the messages of worker processes with raw bodies; nothing is pickled.

POST / takes one line of JSON, followed by the raw bytes of the inputs if there are any; the reply is the same. GET /
describes the scorer.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ...errors import NbenchError, one_line
from ...shards.schema import LatentSpace, PositionInfo, PreviewMap
from ..protocols import Scorer
from .messages import LARGEST_REPLY
from .worker import Host, described_array, description, failure

LARGEST_REQUEST = 2**30
_SPACES = 4
"""Latent spaces for which the scorer is kept at a time."""


class ScorerServer(ThreadingHTTPServer):
    """Serves the scorers that `make` makes for the latent spaces of clients, one call at a time.

    Args:
        make: the scorer for a latent space.
        space: the one to make it for at once, so that a scorer that cannot be made is an error here.

    Raises:
        NbenchError: the scorer cannot be made, or the address is taken.
    """

    daemon_threads = True

    def __init__(self, host: str, port: int, make: Callable[[LatentSpace], Scorer], space: LatentSpace) -> None:
        self._make, self._hosts, self.lock = make, dict[LatentSpace, Host](), threading.Lock()
        self.host_for(space)
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise NbenchError(
                f"cannot listen at {host}:{port} ({error.strerror}): give another --host or --port"
            ) from None

    @property
    def url(self) -> str:
        """What clients give after `http:`."""
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"

    def host_for(self, space: LatentSpace) -> Host:
        """The scorer for a latent space.

        Raises:
            NbenchError: it cannot be made.
        """
        if space not in self._hosts:
            scorer = self._make(space)
            while len(self._hosts) >= _SPACES:
                del self._hosts[next(iter(self._hosts))]
            self._hosts[space] = Host(scorer, scorer.fingerprint, getattr(scorer, "versions", {}))
        return self._hosts[space]


class _Handler(BaseHTTPRequestHandler):
    server: ScorerServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 600  # of a connection without a request

    def do_GET(self) -> None:
        with self.server.lock:
            hello = next(iter(self.server._hosts.values())).hello()
        self._reply(200, {"hello": hello})

    def do_POST(self) -> None:
        try:
            size = int(self.headers.get("Content-Length", ""))
        except ValueError:
            size = -1
        if not 0 <= size <= LARGEST_REQUEST:
            self.close_connection = True  # the body is not read
            self._reply(413, {"refused": f"a body of 0 to {LARGEST_REQUEST} bytes with its Content-Length is needed"})
            return
        body = bytearray(size)
        if self.rfile.readinto(body) != size:
            self.close_connection = True
            return
        end = body.find(b"\n")
        try:
            request = json.loads(body[:end])
            space = space_of_request(request["info"])
            call = request["method"]
            inputs = described_array(request["inputs"], body, end + 1) if "inputs" in request else None
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            self._reply(400, {"refused": f"not a request of this protocol: {one_line(str(error), 200)}"})
            return
        try:
            with self.server.lock:
                host = self.server.host_for(space)
                if call == "hello":
                    self._reply(200, {"id": None, "hello": host.hello()})
                    return
                array = host.answer(request, inputs)
        except Exception as error:  # scorers can raise any type
            self._reply(200, {"id": None, "error": failure(error)})
            return
        if array.nbytes > LARGEST_REPLY:
            self._reply(500, {"refused": f"the scorer returns {array.nbytes} bytes, more than {LARGEST_REPLY}"})
            return
        self._reply(200, {"id": None, "array": description(array)}, array.tobytes())

    def _reply(self, status: int, header: Mapping[str, Any], body: bytes = b"") -> None:
        data = json.dumps(header).encode() + b"\n" + body
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream" if body else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """No line per request."""


def space_of_request(value: Mapping[str, Any]) -> LatentSpace:
    """The latent space of a request.

    Raises:
        ValueError, KeyError, TypeError: it is not one.
    """
    if set(value) != {field.name for field in fields(LatentSpace)}:
        raise ValueError("info is not a latent space")
    preview = value["preview"]
    shape, size = (tuple(int(n) for n in value[key]) for key in ("latent_shape", "image_size"))
    if len(shape) != 3 or len(size) != 2:
        raise ValueError("info is not a latent space")
    return LatentSpace(
        (shape[0], shape[1], shape[2]),
        None if preview is None else PreviewMap(_rows(preview["weight"]), _three(preview["bias"])),
        str(value["pipeline"]),
        (size[0], size[1]),
        tuple(PositionInfo(**position) for position in value["positions"]),
        int(value["steps"]),
    )


def _rows(rows: Any) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    red, green, blue = (tuple(map(float, row)) for row in rows)
    return red, green, blue


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    return red, green, blue
