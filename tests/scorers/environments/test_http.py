"""`nbench serve-scorer` and `http:`: scores equal those of this process, servers share the work, failures are clear."""

from __future__ import annotations

import http.client
import http.server
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from nbench.errors import NbenchError
from nbench.scorers.apply import AppliedScorer, Rows
from nbench.scorers.check import PROMPTS, WORLD, made_up_inputs
from nbench.scorers.environments import client
from nbench.scorers.environments.client import parse_urls
from nbench.scorers.environments.server import ScorerServer
from nbench.scorers.protocols import Scorer
from nbench.scorers.registry import get_scorer
from nbench.shards.schema import LatentSpace, PositionInfo
from nbench.shards.scores import PROMPT

STRANGE = Path(__file__).with_name("strange.py")
AT = PositionInfo(25, 500.0, 0.75, 1.0)


def of(name: str) -> Callable[[LatentSpace], Scorer]:
    """Makes a scorer of `strange`, or a built-in one."""
    return lambda space: get_scorer(f"{STRANGE}:{name}" if name[0].isupper() else name, space)


@contextmanager
def running(server: Any) -> Iterator[Any]:
    """A server at work in a thread."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def serving(name: str) -> Any:
    """A server of one scorer."""
    return running(ScorerServer("127.0.0.1", 0, of(name), WORLD))


def scores(scorer: Any, inputs: torch.Tensor, prompts: Any = PROMPTS) -> list[float]:
    rows = Rows(["p"] * len(prompts), list(range(len(prompts))), {PROMPT: prompts})
    result: list[float] = AppliedScorer(scorer).score(rows, AT, lambda part: inputs[part]).by_caption[PROMPT].tolist()
    return result


@pytest.mark.parametrize("name", ["Sums", "Told", "Twin", "Names"])
def test_a_served_scorer_equals_itself(name: str) -> None:
    here = of(name)(WORLD)
    inputs = made_up_inputs(here, WORLD)
    with serving(name) as server:
        there = get_scorer(f"http:{server.url}", WORLD)
        assert (there.name, there.reads, there.fingerprint) == (here.name, here.reads, here.fingerprint)
        assert scores(there, inputs) == scores(here, inputs)


def test_a_served_scorer_is_made_for_the_latents_of_each_client() -> None:
    with serving("Told") as server:
        other = LatentSpace((16, 8, 8), None, "other", (64, 64), WORLD.positions, 28)
        fingerprints = [get_scorer(f"http:{server.url}", space).fingerprint for space in (WORLD, other)]
        assert "(4,-16,-16)" in fingerprints[0]
        assert "(16,-8,-8)" in fingerprints[1]
    with (
        serving("noisyclip") as server,
        pytest.raises(NbenchError, match=r"create its scorer: NbenchError: no noisyclip"),
    ):
        get_scorer(f"http:{server.url}", other)


def test_several_servers_share_a_batch_and_one_may_go(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nbench.scorers.environments.remote._PART_BYTES", 4)
    monkeypatch.setattr(client, "_PAUSES", (0.0, 0.0))
    inputs, prompts = torch.arange(20.0)[:, None], [""] * 20
    all_work = threading.Barrier(2, timeout=30)

    class Waits:
        name, reads, fingerprint, first = "waits", "latent", "1", True

        def score(self, inputs: torch.Tensor, prompts: list[str]) -> torch.Tensor:
            if self.first:
                all_work.wait()  # passes only if each server is given a part
            self.first = False
            return inputs[:, 0]

    servers: list[Any] = [ScorerServer("127.0.0.1", 0, lambda space: Waits(), WORLD) for _ in range(2)]
    gone = set[Any]()
    for server in servers:
        kind, answer = server.RequestHandlerClass, server.RequestHandlerClass.do_POST
        mortal = {"do_POST": lambda handler, answer=answer: None if handler.server in gone else answer(handler)}
        server.RequestHandlerClass = type("Mortal", (kind,), {**mortal, "timeout": 0.1})  # gone: no reply at all
    with running(servers[0]), running(servers[1]):
        scorer: Any = get_scorer(f"http:{servers[0].url}+{servers[1].url}", WORLD)
        assert scorer.score(inputs, prompts).tolist() == inputs[:, 0].tolist()
        gone.add(servers[1])
        assert scorer.score(inputs, prompts).tolist() == inputs[:, 0].tolist()
        assert f"no answer from {servers[1].url} after 2 attempts" in capsys.readouterr().err
        gone.add(servers[0])
        for _ in range(2):
            with pytest.raises(NbenchError, match=r"no answer from .*: start it again|no server of"):
                scorer.score(inputs, prompts)


def test_servers_of_different_scorers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving("Sums") as first, serving("Twin") as second, pytest.raises(NbenchError, match=": serve one scorer"):
        get_scorer(f"http:{first.url}+{second.url}", WORLD)
    monkeypatch.setattr(client, "_PAUSES", (0.0,))
    with pytest.raises(
        NbenchError, match=r"no answer from http://127\.0\.0\.1:1 after .*: start `nbench serve-scorer`"
    ):
        get_scorer("http://127.0.0.1:1", WORLD)


def test_urls() -> None:
    assert parse_urls("//h:1") == ["http://h:1"]
    assert parse_urls("http://a:1+http://b:2/x/+https://c") == ["http://a:1", "http://b:2/x", "https://c"]
    for text in ("ftp://h", "h:1", "http://", "http://h:99999", "http://h:x"):
        with pytest.raises(NbenchError, match="is not a URL: give http://HOST:PORT"):
            parse_urls(text)
    with pytest.raises(NbenchError, match="a URL with a password would be written to results"):
        parse_urls("http://user:secret@h:1")


def test_errors_of_a_served_scorer_read_as_in_this_process() -> None:
    inputs = torch.ones(2, 4, 16, 16)
    with serving("Raises") as server:
        there = get_scorer(f"http:{server.url}", WORLD)
        with pytest.raises(NbenchError, match=r"^scorer sums: score raises ValueError: a bad day and more"):
            scores(there, inputs, ["bad", ""])
        assert scores(there, inputs, ["good", ""]) == [1028.0, 1024.0]
    with serving("Full") as server:
        assert scores(get_scorer(f"http:{server.url}", WORLD), torch.arange(5.0)[:, None], [""] * 5) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("body", "length", "status"),
    [
        (b"not JSON\n", None, 400),
        (b"[]\n", None, 400),
        (b'{"method": "score", "info": {}}\n', None, 400),
        (b"[" * 100_000, None, 400),
        (b"", str(2**40), 413),
        (b"", "-1", 413),
        (b"", "many", 413),
    ],
)
def test_a_server_refuses_what_is_not_of_the_protocol(body: bytes, length: str | None, status: int) -> None:
    with serving("Sums") as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=30)
        connection.request("POST", "/", body, {"Content-Length": length or str(len(body))})
        response = connection.getresponse()
        assert (response.status, list(json.loads(response.read()))) == (status, ["refused"])
        connection.close()
        assert get_scorer(f"http:{server.url}", WORLD).name == "sums"  # it goes on


def test_a_server_tells_what_it_serves_and_an_address_in_use_is_one_line() -> None:
    with serving("Sums") as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=30)
        connection.request("GET", "/")
        assert json.loads(connection.getresponse().read())["hello"]["name"] == "sums"
        connection.close()
        with pytest.raises(
            NbenchError, match=r"cannot listen at 127\.0\.0\.1:[0-9]+ .*: give another --host or --port"
        ):
            ScorerServer("127.0.0.1", server.server_address[1], of("Sums"), WORLD)


@pytest.mark.slow
def test_the_command_serves_until_it_is_interrupted() -> None:
    command = [sys.executable, "-m", "nbench", "serve-scorer", f"{STRANGE}:Sums", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = next(line for line in process.stdout if line.startswith("serving"))  # after what the scorer prints
        name = line.split()[-1]
        assert name.startswith("http:http://127.0.0.1:")
        inputs = torch.rand(6, 4, 16, 16)
        assert scores(get_scorer(name, WORLD), inputs) == scores(of("Sums")(WORLD), inputs)
        process.send_signal(signal.SIGINT)
        assert "Traceback" not in process.communicate(timeout=60)[1]
    finally:
        process.kill()
        process.wait()


HELLO = {
    "protocol": 1,
    "name": "n",
    "reads": "latent",
    "fingerprint": "1",
    "kind": "pair",
    "conditioned": False,
    "scale": 1.0,
    "width": None,
    "versions": {},
}


class Replies(http.server.BaseHTTPRequestHandler):
    """Says hello, then gives the replies of its server, the last one again and again."""

    protocol_version = "HTTP/1.1"
    server: Any

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])).partition(b"\n")[0])
        self.server.asked += 1
        status, data = 200, json.dumps({"id": None, "hello": self.server.hello}).encode() + b"\n"
        if request["method"] != "hello":
            status, data = self.server.replies[0]
            self.server.replies = self.server.replies[1:] or self.server.replies
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextmanager
def replying(*replies: tuple[int, bytes], **hello: object) -> Iterator[Any]:
    """A server with given replies."""
    server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Replies)
    server.daemon_threads = True
    server.asked, server.replies, server.hello = 0, replies, HELLO | hello
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    with running(server):
        yield server


GOOD = b'{"id": null, "array": {"shape": [1], "dtype": "float32", "bytes": 4}}\n\0\0\0\0'


def test_busy_servers_are_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_PAUSES", (0.0, 0.0, 0.0))
    with replying((503, b"busy"), (429, b""), (200, GOOD)) as server:
        scorer: Any = get_scorer(f"http:{server.url}", WORLD)
        assert scorer.score(torch.ones(1, 1), [""]).tolist() == [0.0]
        assert server.asked == 4


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (b"<html>", r"does not speak nbench's scorer protocol"),
        (b'{"id": null, "array": {"shape": [1], "dtype": "float32", "bytes": 4}}\n\0\0\0\0\0', "5 bytes instead of 4"),
        (b'{"id": null, "array": {"shape": [2], "dtype": "float32", "bytes": 4}}\n\0\0\0\0', "does not have 4 bytes"),
        (b'{"id": null, "array": {"shape": [0], "dtype": "float32", "bytes": 0}}\n', r"returns shape \[0\] for 1 rows"),
        (b'{"id": null}\n', "a reply without an array"),
        (b"x" * 2000, "HTTPException: a reply of more than 1000 bytes"),
    ],
)
def test_hostile_replies_are_refused(reply: bytes, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_PAUSES", (0.0,))
    with replying((200, reply)) as server:
        scorer: Any = get_scorer(f"http:{server.url}", WORLD)
        monkeypatch.setattr(client, "LARGEST_REPLY", 500)
        monkeypatch.setattr(client, "LONGEST_LINE", 500)
        with pytest.raises(NbenchError, match=message):
            scorer.score(torch.ones(1, 1), [""])


def test_another_version_of_the_protocol_is_refused() -> None:
    with (
        replying(protocol=2) as server,
        pytest.raises(NbenchError, match="version 2 of the scorer protocol"),
    ):
        get_scorer(f"http:{server.url}", WORLD)
