"""A real server on loopback, called by OpenAI's own client."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import torch
import uvicorn
from PIL import Image

from nbench.errors import NbenchError
from nbench.sampling.bestofn import BestOfN
from nbench.sampling.engine import Engine
from nbench.sampling.serving.app import Limits, create_app
from nbench.sampling.serving.config import ServeConfig
from nbench.shards.seeds import candidate_seed

from ..live import PROMPT, STEPS, Mean, opened

POLICY = "2:2,4:1"


class Gate(Mean):
    """Scores when it is opened; fails on a prompt that says so."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.open = threading.Event(), threading.Event()
        self.open.set()

    def score(self, inputs: torch.Tensor, prompts: Any) -> torch.Tensor:
        self.entered.set()
        assert self.open.wait(60)
        if "bad" in prompts[0]:
            raise ZeroDivisionError
        return super().score(inputs, prompts)


class Served:
    """A server in a thread of this process."""

    def __init__(self, folder: Path) -> None:
        self.pipe, self.arguments = opened(folder)
        self.scorer = Gate()
        self.engine = Engine(self.pipe, self.scorer, POLICY, n=3, max_batch=3, queue=1, **self.arguments)
        sizes = {f"{width}x16": {"width": width, "height": 16} for width in (16, 24)}
        self.app = create_app(self.engine, Limits("tiny", sizes, max_prompt=100, max_body=2000))
        self.server = uvicorn.Server(uvicorn.Config(self.app, port=0, log_level="warning"))
        started, startup = threading.Event(), self.server.startup

        async def signalled(sockets: Any = None) -> None:
            await startup(sockets)
            started.set()

        self.server.startup = signalled  # type: ignore[method-assign]
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        assert started.wait(60)
        self.url = f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}"
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=120)

    def close(self) -> None:
        self.client.close()
        self.server.should_exit = True
        self.thread.join()


@pytest.fixture(scope="module")
def served(sd15_folder: Path) -> Iterator[Served]:
    server = Served(sd15_folder)
    yield server
    server.close()
    assert not server.engine.is_open  # closed with the application


def pixels(encoded: str | None) -> np.ndarray:
    assert encoded is not None
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded)))).astype(int)


def metric(served: Served, name: str) -> float:
    text = httpx.get(f"{served.url}/metrics").text
    match = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert match, text
    return float(match[1])


def test_images_scores_and_what_was_saved(served: Served) -> None:
    answer = served.client.images.generate(
        model="tiny", prompt=PROMPT, n=2, size="16x16", response_format="b64_json", extra_body={"seed": 7}
    )
    assert answer.data is not None
    account: Any = answer.model_extra
    seeds = [candidate_seed(7, PROMPT, number) for number in range(3)]
    assert [candidate["seed"] for candidate in account["nbench"]["candidates"]] == seeds
    assert [image.seed for image in answer.data] == account["nbench"]["selected"]  # type: ignore[attr-defined]
    rows, full = account["nbench"]["denoiser_rows"], account["nbench"]["full_denoiser_rows"]
    assert (rows, full) == (2 * (3 * 2 + 2 * 3), 2 * 3 * STEPS)
    assert account["nbench"]["saved"] == 1 - rows / full
    best = [scores["scores"]["4"] for scores in account["nbench"]["candidates"] if "4" in scores["scores"]]
    assert [image.score for image in answer.data] == sorted(best, reverse=True)  # type: ignore[attr-defined]
    pipe, arguments = opened(served.pipe.name_or_path)
    alone = BestOfN(pipe, Mean(), 3, POLICY, keep=2, seed=7).best(PROMPT, **arguments)
    for image, expected in zip(answer.data, alone.images, strict=True):
        assert abs(pixels(image.b64_json) - np.asarray(expected)).max() <= 1


def test_sizes_formats_and_fresh_seeds(served: Served) -> None:
    answers = [
        served.client.images.generate(prompt=PROMPT, size="24x16", extra_body={"output_format": "webp"})
        for _ in range(2)
    ]
    images = [answer.data[0] for answer in answers if answer.data]
    assert pixels(images[0].b64_json).shape == (16, 24, 3)
    assert base64.b64decode(str(images[0].b64_json))[8:12] == b"WEBP"
    assert images[0].seed != images[1].seed  # type: ignore[attr-defined]


def test_progress_as_events(served: Served) -> None:
    events: list[Any] = list(served.client.images.generate(prompt=PROMPT, n=2, stream=True, extra_body={"seed": 1}))
    progress = [event.model_dump() for event in events if event.type == "nbench.progress"]
    assert [event["position"] for event in progress] == list(range(1, STEPS + 1))
    assert [len(event["living"]) for event in progress] == [3, 2, 2, 2, 2]
    completed = [event for event in events if event.type == "image_generation.completed"]
    assert len(completed) == 2
    assert pixels(completed[0].b64_json).shape == (16, 16, 3)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"size": "32x32"}, openai.BadRequestError, "no size '32x32': use 16x16, 24x16"),
        ({"prompt": "x" * 101}, openai.BadRequestError, "longer than 100 characters"),
        ({"prompt": ""}, openai.BadRequestError, "prompt: String should have at least 1 character"),
        ({"n": 4}, openai.BadRequestError, "cannot keep 4 of 3 candidates"),
        ({"n": 11}, openai.BadRequestError, "n: Input should be less than or equal to 10"),
        ({"response_format": "url"}, openai.BadRequestError, "response_format: Input should be 'b64_json'"),
        ({"model": "other"}, openai.NotFoundError, "no model 'other': tiny is served"),
        ({"prompt": "x" * 3000}, openai.APIStatusError, "larger than 2000 bytes"),
        ({"prompt": "a bad circle"}, openai.InternalServerError, "score raises ZeroDivisionError"),
    ],
)
def test_refusals_in_the_shape_of_openai(served: Served, arguments: Any, kind: Any, message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)) as raised:
        served.client.images.generate(**{"prompt": PROMPT, **arguments})
    assert raised.value.body["type"] in ("invalid_request_error", "server_error")
    if "larger" in message:
        assert raised.value.status_code == 413


def test_null_stands_for_a_field_that_is_left_out(served: Served) -> None:
    answer = served.client.images.generate(
        prompt=PROMPT, n=None, size=None, response_format=None, output_format=None, stream=None, extra_body={"seed": 7}
    )
    plain = served.client.images.generate(prompt=PROMPT, extra_body={"seed": 7})
    assert answer.data is not None
    assert plain.data is not None
    assert [image.b64_json for image in answer.data] == [image.b64_json for image in plain.data]


def test_a_client_that_goes_away_before_its_request_is_whole(served: Served) -> None:
    """It is an answer like others, which nobody hears, and no error of the server."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/images/generations", "headers": [], "query_string": b""}
    asyncio.run(served.app(scope, receive, send))
    assert sent[0]["status"] == 499


def test_a_full_queue_and_a_client_that_goes_away(served: Served) -> None:
    """One request runs, one waits, the third is refused; then both clients leave, and both requests are cancelled."""
    before = metric(served, 'nbench_requests_total{outcome="cancelled"}')
    served.scorer.entered.clear()
    served.scorer.open.clear()
    body = json.dumps({"prompt": PROMPT}).encode()
    streamed = json.dumps({"prompt": PROMPT, "stream": True}).encode()
    host, port = served.url.removeprefix("http://").split(":")
    import socket

    connections = []
    for each in (body, streamed):
        connection = socket.create_connection((host, int(port)))
        head = f"POST /v1/images/generations HTTP/1.1\r\nHost: nbench\r\nContent-Length: {len(each)}\r\n\r\n"
        connection.sendall(head.encode() + each)
        connections.append(connection)
        assert served.scorer.entered.wait(60)
    while served.engine.stats.waiting < 1:  # the second has arrived
        threading.Event().wait(0.01)
    with pytest.raises(openai.RateLimitError, match="1 requests are waiting") as raised:
        served.client.images.generate(prompt=PROMPT)
    assert raised.value.response.headers["retry-after"] == "1"
    for connection in connections:
        connection.close()
    futures = [request.future for run in served.engine._loop._runs for request in run.requests]
    futures += [request.future for request in served.engine._loop._queue]
    while not all(future.cancelled() for future in futures):
        threading.Event().wait(0.01)
    served.scorer.open.set()
    served.client.images.generate(prompt=PROMPT)
    assert metric(served, 'nbench_requests_total{outcome="cancelled"}') == before + 2


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"port": 99999}, r"--port 99999 is out of range: give 0\.\.65535"),
        ({"port": -1}, "--port -1 is out of range"),
        ({"stop_after": -1}, "--stop-after -1 is out of range"),
        ({"steps": 0}, "--steps 0 is out of range"),
        ({"best_of": 0}, "--best-of 0 is out of range"),
    ],
)
def test_values_out_of_range_are_refused_before_anything_is_loaded(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(NbenchError, match=reason):
        ServeConfig(**values)


def test_health_models_and_metrics(served: Served) -> None:
    served.client.images.generate(prompt=PROMPT)
    assert httpx.get(f"{served.url}/healthz").json() == {"status": "ok"}
    assert httpx.head(f"{served.url}/healthz").status_code == 200
    assert [model.id for model in served.client.models.list()] == ["tiny"]
    assert served.client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="no model 'other/model': tiny is served"):
        served.client.models.retrieve("other/model")
    missing = httpx.get(f"{served.url}/nowhere")
    assert (missing.status_code, missing.json()["error"]["message"]) == (404, "Not Found")
    assert metric(served, "nbench_request_seconds_count") >= 1
    assert metric(served, "nbench_denoiser_rows_total") >= 2 * (3 * 2 + 2 * 2 + 1)
    assert metric(served, "nbench_waiting") == 0


@pytest.mark.slow
def test_the_command_serves_and_stops_cleanly(tmp_path: Path) -> None:
    """SIGTERM while a request runs: it is answered, then the process ends with 0."""
    options = ["--model", "noisyclip", "--policy", "2:1", "--best-of", "3", "--steps", "4", "--port", "0"]
    command = [sys.executable, "-m", "nbench", "serve", *options]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env={**os.environ})
    try:
        assert process.stderr is not None
        address = next(line for line in process.stderr if line.startswith("serving at ")).split()[-1]
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        stream: Any = client.images.generate(prompt=PROMPT, stream=True)
        first = next(iter(stream))
        assert first.type == "nbench.progress"
        process.send_signal(signal.SIGTERM)
        assert [event.type for event in stream][-1] == "image_generation.completed"
        assert process.wait(120) == 0
        with pytest.raises(OSError, match="refused"):
            urllib.request.urlopen(f"{address}/healthz")
    finally:
        process.kill()
        process.wait()
