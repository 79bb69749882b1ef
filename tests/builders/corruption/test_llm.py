"""Near misses by a language model: an endpoint that misbehaves, answers that break a rule, a run that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from nbench.builders.corruption.answers import AnswerFile, answer_files
from nbench.builders.corruption.config import CorruptConfig
from nbench.builders.corruption.endpoint import Endpoint
from nbench.builders.corruption.judge import Unfit, judged
from nbench.builders.corruption.llm import LlmEngine
from nbench.builders.corruption.run import corrupt
from nbench.builders.prompts.choose import load_prompts
from nbench.builders.prompts.request import PromptRequest
from nbench.errors import NbenchError
from nbench.jobs.run import Run

CAPTION = "two black dogs in the park"
GOOD = {
    "subject": ("dogs", "cats"),
    "colour": ("black", "white"),
    "quantity": ("two", "three"),
    "background": ("park", "kitchen"),
}


def answer(before: str, after: str, applicable: bool = True) -> str:
    return json.dumps({"applicable": applicable, "before": before, "after": after})


class Chat:
    """An OpenAI-compatible endpoint; `plan` gives status and text for the n-th request, from its kind."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.delay = 0.0
        self.plan: Callable[[int, str], tuple[int, str]] = lambda number, kind: (200, answer(*GOOD[kind]))
        chat, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    number = len(chat.requests)
                    chat.requests.append(body)
                    chat.keys.append(self.headers["Authorization"])
                question = body["messages"][1]["content"]
                words = {
                    "(the noun": "subject",
                    "the colour": "colour",
                    "the number": "quantity",
                    "the place": "background",
                }
                kind = next(kind for word, kind in words.items() if word in question.partition("\n")[0])
                time.sleep(chat.delay)
                status, text = chat.plan(number, kind)
                answer = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
                self.send_response(status)
                self.send_header("Retry-After", "0")
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                with suppress(BrokenPipeError):  # of a client that waits no longer
                    self.wfile.write(answer)

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def chat() -> Iterator[Chat]:
    chat = Chat()
    yield chat
    chat.server.shutdown()
    chat.server.server_close()


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "p.txt"
    path.write_text("".join(f"{CAPTION} {number}x\n" for number in range(12)))
    return path


def config(chat: Chat, prompts: Path, name: str = "near.jsonl", **more: Any) -> CorruptConfig:
    request, out = PromptRequest(prompts, limit=more.pop("limit", None)), prompts.with_name(name)
    return CorruptConfig(request, out, "llm", endpoint=chat.url, model="m", **more)


def ask(chat: Chat, tmp_path: Path, **more: Any) -> list[tuple[str, str | None]]:
    with AnswerFile(tmp_path / "a.jsonl") as answers:
        engine = LlmEngine(Endpoint(chat.url, "m", wait_s=0.01, **more), answers, 0, 1)
        changes = next(engine.changes([CAPTION], list(GOOD)))
    return [(change.status, change.caption or change.error) for change in changes]


def test_good_answers(chat: Chat, prompts: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    report = corrupt(config(chat, prompts))
    assert report.counts == {kind: {"ok": 12} for kind in GOOD}
    row = json.loads(report.out.read_text().splitlines()[0])
    assert row["corruptions"]["colour"] == "two white dogs in the park 0x"
    expected = {"kind": "colour", "engine": "llm", "status": "ok", "before": "black", "after": "white", "error": None}
    assert row["changes"][1] == expected
    assert load_prompts(PromptRequest(report.out)).prompts[0].corruptions == row["corruptions"]
    assert set(chat.keys) == {"Bearer sk-secret"}
    written = "".join(path.read_text() for path in prompts.parent.iterdir()) + "".join(capfd.readouterr())
    assert "sk-secret" not in written
    form = chat.requests[0]["response_format"]["json_schema"]
    assert form["strict"]
    assert set(form["schema"]["required"]) == {"applicable", "before", "after"}


def test_what_passes_is_asked_again(chat: Chat, tmp_path: Path) -> None:
    chat.plan = lambda number, kind: ((429, 503, 200)[number % 3], answer(*GOOD[kind]))
    assert [status for status, _ in ask(chat, tmp_path)] == ["ok"] * 4
    assert len(chat.requests) == 12


def test_unfit_answers_are_asked_again_at_another_seed(chat: Chat, tmp_path: Path) -> None:
    chat.plan = lambda number, kind: (200, ("no JSON", answer("dogs", "dogs"), answer(*GOOD[kind]))[number % 3])
    assert [status for status, _ in ask(chat, tmp_path)] == ["ok"] * 4
    assert len({body["seed"] for body in chat.requests}) == 12
    assert [body["temperature"] for body in chat.requests[:3]] == [0.0, 0.7, 0.7]


def test_an_answer_that_never_fits_is_a_failure_and_kept(chat: Chat, prompts: Path) -> None:
    chat.plan = lambda number, kind: (200, answer("dogs", "cats"))
    report = corrupt(config(chat, prompts, kinds=("colour",), limit=2))
    assert report.counts == {"colour": {"failed": 2}}
    assert report.errors == {"'dogs' to 'cats' is not one colour to another": 2}
    requests = len(chat.requests)
    assert corrupt(config(chat, prompts, kinds=("colour",), limit=2)) == report
    assert len(chat.requests) == requests
    chat.plan = lambda number, kind: (200, answer(*GOOD[kind]))
    again = corrupt(config(chat, prompts, kinds=("colour",), limit=2, retry_failed=True))
    assert again.counts == {"colour": {"ok": 2}}


def test_slow(chat: Chat, tmp_path: Path) -> None:
    chat.delay = 0.5
    with pytest.raises(NbenchError, match=r"does not answer after 2 attempts \(.*timed out.*\): run the same command"):
        ask(chat, tmp_path, timeout_s=0.05, attempts=2)


@pytest.mark.parametrize(
    ("status", "message"), [(401, "environment variable"), (404, "end in /v1"), (302, "log of the")]
)
def test_refusals_are_not_asked_again(chat: Chat, tmp_path: Path, status: int, message: str) -> None:
    chat.plan = lambda number, kind: (status, "")
    with pytest.raises(NbenchError, match=message):
        ask(chat, tmp_path)
    assert len(chat.requests) <= 4  # one a kind


@pytest.mark.parametrize("body", ["[]", '{"choices": []}', "<html>"])
def test_an_endpoint_that_speaks_something_else(chat: Chat, tmp_path: Path, body: str) -> None:
    chat.plan = lambda number, kind: (200, body)
    assert {status for status, _ in ask(chat, tmp_path)} == {"failed"}


@pytest.mark.parametrize(
    ("kind", "before", "after", "message"),
    [
        ("subject", "dogs", "dogs", "means the same"),
        ("subject", "dogs", "hounds", "means the same"),
        ("subject", "dogs", "big dogs", "the noun stays"),
        ("subject", "black dogs", "white cats", "a colour or a number changes"),
        ("subject", "park", "kitchen", "is a place"),
        ("subject", "cats", "birds", "0 times"),
        ("subject", "do", "ca", "0 times"),
        ("subject", "", "cats", "words are missing"),
        ("subject", "dogs", "cats\nand", "several lines"),
        ("colour", "black", "ebony", "means the same"),
        ("colour", "black dogs", "white cats", "more than the colour"),
        ("colour", "two", "three", "not one colour"),
        ("quantity", "two", "2", "means the same"),
        ("quantity", "black", "white", "not one number"),
        ("quantity", "two black dogs", "three black cats", "more than the number"),
        ("background", "dogs", "cats", "is no place"),
        ("background", "the park", "a park", "means the same"),
        ("background", "the park", "a green kitchen", "a colour or a number"),
    ],
)
def test_answers_that_break_a_rule(kind: str, before: str, after: str, message: str) -> None:
    with pytest.raises(Unfit, match=message):
        judged(answer(before, after), CAPTION, kind)


@pytest.mark.parametrize(("before", "same"), [("Both", "Two"), ("Both", "A couple"), ("A dozen", "12"), ("2", "Both")])
def test_numbers_in_other_words_are_no_near_miss(before: str, same: str) -> None:
    with pytest.raises(Unfit, match="not one number to another"):
        judged(answer(before, same), f"{before} dogs sleep", "quantity")
    assert judged(answer(before, "Three"), f"{before} dogs sleep", "quantity").caption == "Three dogs sleep"


@pytest.mark.parametrize("kind", GOOD)
def test_answers_that_keep_the_rules(kind: str) -> None:
    before, after = GOOD[kind]
    change = judged(f"<think>{{}}</think>```json\n{answer(before, after)}\n```", CAPTION, kind)
    assert change.caption == CAPTION.replace(before, after)
    assert judged(answer("", "", False), CAPTION, kind).status == "not applicable"
    for bad in ("", "{}", "[" * 9999, '{"applicable": "yes", "before": "a", "after": "b"}'):
        with pytest.raises(Unfit, match="malformed"):
            judged(bad, CAPTION, kind)


@pytest.mark.slow
def test_killed_and_gone_on_with(chat: Chat, prompts: Path) -> None:
    whole = corrupt(config(chat, prompts, "whole.jsonl")).out.read_bytes()
    chat.delay, requests = 0.05, len(chat.requests)
    command = [sys.executable, "-m", "nbench", "corrupt", str(prompts), "--engine", "llm", "--endpoint", chat.url]
    command += ["--model", "m", "--concurrency", "2", "--out", str(prompts.with_name("cut.jsonl"))]
    running = subprocess.Popen(command, env=os.environ, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while len(chat.requests) < requests + 20 and time.monotonic() < end:
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    kept = prompts.with_name("cut.jsonl.answers.jsonl")
    lines = kept.read_bytes().count(b"\n")
    assert 10 < lines < 48
    assert not prompts.with_name("cut.jsonl").exists()
    kept.write_bytes(kept.read_bytes() + b'{"key": "half')
    time.sleep(0.2)  # what the server still has in hand
    chat.delay, requests = 0.0, len(chat.requests)
    assert corrupt(config(chat, prompts, "cut.jsonl")).out.read_bytes() == whole
    assert len(chat.requests) - requests == 48 - lines


def test_the_answers_of_several_processes_become_one_file(chat: Chat, prompts: Path) -> None:
    once = config(chat, prompts, "n.jsonl")
    assert corrupt(once, how=Run(share=(0, 1), shown=False)).left == 0
    (own,) = answer_files(once.out)
    assert own.name != "n.jsonl.answers.jsonl"
    saved, requests = own.read_bytes(), len(chat.requests)
    corrupt(once)
    (whole,) = answer_files(once.out)
    assert (whole.name, whole.read_bytes()) == ("n.jsonl.answers.jsonl", saved)
    corrupt(once)
    assert len(chat.requests) == requests


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    with AnswerFile(tmp_path / "a"), pytest.raises(NbenchError, match="another run"):
        AnswerFile(tmp_path / "a")
