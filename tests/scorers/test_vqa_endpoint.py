"""VQAScore by a server of OpenAI's protocol: its messages are valid for OpenAI's own client, failures are clear."""

from __future__ import annotations

import base64
import io
import json
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nbench.errors import NbenchError
from nbench.scorers import vqa_endpoint
from nbench.scorers.check import WORLD
from nbench.scorers.registry import get_scorer
from nbench.scorers.vqa_endpoint import yes_probability
from nbench.scorers.vqascore import QUESTION

MODELS = {"object": "list", "data": [{"id": "qwen", "object": "model", "created": 1, "owned_by": "me", "root": "/w"}]}


def completion(*tokens: tuple[str, float]) -> dict[str, Any]:
    """A chat completion of one token with its top log-probabilities, as vLLM and SGLang write it."""
    top = [{"token": token, "logprob": logprob, "bytes": list(token.encode())} for token, logprob in tokens]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": tokens[0][0], "refusal": None},
        "finish_reason": "length",
        "logprobs": {"content": [{**top[0], "top_logprobs": top}], "refusal": None},
    }
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "qwen", "choices": [choice]}


class Endpoint(BaseHTTPRequestHandler):
    """Answers by `server.answer(request)`: a status and a body."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Any

    def do_GET(self) -> None:
        self._reply(200, MODELS)

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append((self.path, self.headers["Authorization"], request))
        self._reply(*self.server.answer(request))

    def _reply(self, status: int, body: Any) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextmanager
def endpoint(answer: Callable[[Any], tuple[int, Any]]) -> Iterator[Any]:
    """A server at work; its `url` ends in /v1."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    server.daemon_threads = True
    server.requests, server.lock, server.answer = [], threading.Lock(), answer
    server.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that keeps answers."""
    monkeypatch.setenv(vqa_endpoint.CACHE, str(tmp_path / "answers" / "kept.sqlite"))
    monkeypatch.delenv(vqa_endpoint.KEY, raising=False)
    monkeypatch.setattr(vqa_endpoint, "_PAUSES", (0.0, 0.0, 0.0))
    return tmp_path / "answers" / "kept.sqlite"


def image_of(request: Any) -> np.ndarray:
    """The image of a request."""
    data = request["messages"][0]["content"][0]["image_url"]["url"].removeprefix("data:image/png;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def by_brightness(request: Any) -> tuple[int, Any]:
    """P("Yes") is the brightness of the image."""
    brightness = image_of(request).mean() / 255
    return 200, completion(("No", math.log(1 - brightness)), ("Yes", math.log(brightness)), ("Maybe", -9.0))


def test_scores_are_the_probabilities_of_yes_and_each_pair_is_asked_once(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.setenv(vqa_endpoint.KEY, "secret")
    images = torch.linspace(0.1, 0.9, 24)[:, None, None, None].expand(24, 3, 6, 4).clone()
    images[:, :, 0, 0] = 1.0
    prompts = [f'a "{number}" prompt' for number in range(24)]
    with endpoint(by_brightness) as server:
        scorer: Any = get_scorer(f"vqascore:{server.url}#qwen", WORLD)
        assert (scorer.name, scorer.reads) == ("vqascore-qwen", "image")
        expected = (images * 255).round().mean((1, 2, 3)) / 255
        assert scorer.score(images, prompts).tolist() == pytest.approx(expected.tolist(), rel=1e-6)
        assert len(server.requests) == 24
        path, key, request = next(
            entry for entry in server.requests if prompts[3] in json.dumps(entry[2]).replace("\\", "")
        )
        assert (path, key) == ("/v1/chat/completions", "Bearer secret")
        assert request["messages"][0]["content"][1] == {"type": "text", "text": QUESTION.format(prompt=prompts[3])}
        assert (image_of(request) == (images[3] * 255).round().byte().permute(1, 2, 0).numpy()).all()
        again: Any = get_scorer(f"vqascore:{server.url}", WORLD)  # the only model
        assert again.fingerprint == scorer.fingerprint
        assert again.score(images, prompts).tolist() == scorer.score(images, prompts).tolist()
        assert len(server.requests) == 24
        again.score(images[:1], ["another prompt"])
        assert len(server.requests) == 25
    assert b"secret" not in cache.read_bytes()


def test_requests_and_replies_are_valid_for_the_client_of_openai() -> None:
    from openai.types import Model
    from openai.types.chat import ChatCompletion
    from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
    from pydantic import TypeAdapter

    with endpoint(by_brightness) as server:
        scorer: Any = get_scorer(f"vqascore:{server.url}#qwen", WORLD)
        scorer.score(torch.rand(1, 3, 8, 8), ["a dog"])
        (_, _, request), answer = server.requests[0], by_brightness(server.requests[0][2])[1]
    TypeAdapter(CompletionCreateParamsNonStreaming).validate_python(request)
    ChatCompletion.model_validate(answer, strict=True)
    Model.model_validate(MODELS["data"][0], strict=True)
    assert set(request) <= set(CompletionCreateParamsNonStreaming.__annotations__)


def test_without_yes_among_the_most_likely_tokens_there_is_no_score() -> None:
    def answer(request: Any) -> tuple[int, Any]:
        text = request["messages"][0]["content"][1]["text"]
        return 200, completion(("No", -0.1), ("yes" if "small" in text else " Yes", -2.0))

    with endpoint(answer) as server:
        scorer: Any = get_scorer(f"vqascore:{server.url}", WORLD)
        for _ in range(2):  # also from what is kept
            assert torch.isnan(scorer.score(torch.rand(2, 3, 4, 4), ["small", "other"])).all()
    assert yes_probability(completion(("Yes", 0.0)), "x") == 1.0
    assert yes_probability(completion(("No", -1.0), ("Yes", -9999.0)), "x") == 0.0


def test_a_busy_server_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    statuses = iter([429, 503, 200])
    with endpoint(lambda request: (next(statuses), completion(("Yes", -1.0)))) as server:
        scorer: Any = get_scorer(f"vqascore:{server.url}", WORLD)
        assert scorer.score(torch.rand(1, 3, 4, 4), ["a"]).tolist() == pytest.approx([math.exp(-1)])
    with endpoint(lambda request: (500, b"out of\nmemory")) as server:
        scorer = get_scorer(f"vqascore:{server.url}", WORLD)
        with pytest.raises(NbenchError, match=r"no answer from .* after 3 attempts \(status 500: out of memory\)"):
            scorer.score(torch.rand(2, 3, 4, 4), ["a", "b"])


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (
            401,
            b"no key",
            r"chat/completions refuses \(status 401: no key\): check the URL, the model and OPENAI_API_KEY",
        ),
        (200, b"<html>", "does not reply with JSON"),
        (200, completion(("Yes", 2.5)), "a log-probability of 2.5, which is not below 0"),
        (200, completion(("Yes", math.nan)), "a log-probability of nan, which is not below 0"),
        (200, {"choices": [{"message": {"content": "Yes"}, "logprobs": None}]}, "gives no top log-probabilities"),
        (200, {"choices": []}, "gives no top log-probabilities"),
        (200, b"[" * 100_000, "does not reply with JSON"),
    ],
)
def test_other_replies_are_refused(status: int, body: Any, message: str) -> None:
    with endpoint(lambda request: (status, body)) as server:
        scorer: Any = get_scorer(f"vqascore:{server.url}", WORLD)
        with pytest.raises(NbenchError, match=message):
            scorer.score(torch.rand(1, 3, 4, 4), ["a"])


def test_unknown_models_and_servers_are_one_line() -> None:
    with endpoint(by_brightness) as server:
        with pytest.raises(NbenchError, match="has no model quen: add #MODEL of qwen"):
            get_scorer(f"vqascore:{server.url}#quen", WORLD)
        with pytest.raises(NbenchError, match="a URL with a password"):
            get_scorer("vqascore:http://user:secret@host/v1", WORLD)
    with pytest.raises(NbenchError, match=r"no answer from http://127\.0\.0\.1:1/v1 after 3 attempts"):
        get_scorer("vqascore:http://127.0.0.1:1/v1#qwen", WORLD)


def test_answers_of_two_servers_are_kept_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for expected in (-1.0, -2.0):
        reply = 200, completion(("Yes", expected))
        with endpoint(partial(lambda reply, request: reply, reply)) as server:
            scorer: Any = get_scorer(f"vqascore:{server.url}", WORLD)
            assert scorer.score(torch.zeros(1, 3, 4, 4), ["a"]).tolist() == pytest.approx([math.exp(expected)])
        (tmp_path / "file").write_text("")
    monkeypatch.setenv(vqa_endpoint.CACHE, str(tmp_path / "file" / "kept"))
    with (
        endpoint(by_brightness) as server,
        pytest.raises(NbenchError, match=f"cannot keep .*: set {vqa_endpoint.CACHE}"),
    ):
        get_scorer(f"vqascore:{server.url}", WORLD)
