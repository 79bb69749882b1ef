"""Building through a server that speaks SGLang-Diffusion's rollout protocol."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import msgpack  # type: ignore[import-untyped]
import numpy as np
import pytest
import torch

from nbench.builders.process import served
from nbench.shards.reader import open_bench
from nbench.shards.seeds import candidate_seed
from nbench.shards.verify import verify

from ..conftest import Outcome, Run
from .importing.engine_answers import STEPS, made, rollout

MODEL = "black-forest-labs/FLUX.1-dev"


@dataclass
class Asked:
    """A server at work: its address, the bodies of requests in their order, and what it does in the place of answering.

    `reply` takes a body and the number of requests before it; it returns a code, a content type and content, or None.
    """

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    reply: Callable[[dict[str, Any], int], tuple[int, str, bytes] | None] = lambda body, number: None


def run_of(seed: int) -> Any:
    return made(seed % 2**31)


@contextmanager
def sglang(asked: Asked) -> Iterator[Asked]:
    """A server that answers rollouts as SGLang-Diffusion does, of runs by `engine_answers.made`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            models = {"object": "list", "data": [{"id": MODEL, "object": "model"}]}
            self._send(200, "application/json", json.dumps(models).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            number = len(asked.bodies)
            asked.bodies.append(body)
            reply = asked.reply(body, number)
            if reply is None:
                steps = body["rollout_return_step_indices"]
                answer = rollout(body["prompt"], body["seed"], run_of(body["seed"]), steps, pack=True)
                reply = 200, "application/msgpack", msgpack.packb([answer])
            if self.path != "/rollout/generate":
                reply = 404, "application/json", b'{"detail":"Not Found"}'
            self._send(*reply)

        def _send(self, code: int, kind: str, content: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    asked.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    monkeypatch.setattr(served, "_PAUSES", (0.0, 0.0))
    with sglang(Asked()) as server:
        yield server


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.csv"
    path.write_text("id,prompt\na,two red circles\nb,one blue square\n")
    return path


@pytest.fixture
def build(run: Run, asked: Asked, prompts: Path, tmp_path: Path) -> Callable[..., Outcome]:
    """Builds through the server into tmp_path/out; options may replace the pipeline."""

    def build(*options: object) -> Outcome:
        usual = ("--pipeline", f"{asked.url}#{MODEL}", "--prompts", prompts, "--steps", STEPS, "--candidates", 2)
        return run("build", "ncc", *usual, "--seed", 3, "--out", tmp_path / "out", *options)

    return build


def test_what_the_server_records_is_stored(
    build: Callable[..., Outcome], asked: Asked, tmp_path: Path, run: Run
) -> None:
    options = ("--positions", "1,3", "--guidance", 3.5, "--height", 32, "--width", 48, "--negative-prompt", "blurry")
    said = build(*options, "--pipeline-arg", "max_sequence_length=256")
    assert said.code == 0, said.err
    bench = open_bench(tmp_path / "out")
    batch = next(bench.batches([1, 3], images=True))
    assert batch.images is not None
    for row, (prompt, candidate) in enumerate(zip(batch.prompt_ids, batch.candidates, strict=True)):
        seed = candidate_seed(3, prompt, candidate)
        assert batch.seeds[row] == seed
        for k in (1, 3):
            np.testing.assert_array_equal(batch.latents[k][row], run_of(seed).latents[k].to(torch.float16).numpy())
        np.testing.assert_array_equal(batch.images[row], run_of(seed).image)
    assert [place.sigma for place in bench.info.positions] == pytest.approx([float(made(0).sigmas[k]) for k in (1, 3)])
    assert verify(tmp_path / "out").defects == ()
    body = asked.bodies[-1]
    expected = {
        "num_inference_steps": STEPS, "rollout_sde_type": "ode", "rollout_return_dit_trajectory": True,
        "rollout_return_step_indices": [1, 3, STEPS], "guidance_scale": 3.5, "height": 32, "width": 48,
        "negative_prompt": "blurry", "extra_sampling_params": {"max_sequence_length": 256},
    }  # fmt: skip
    assert {key: body[key] for key in expected} == expected
    spec = (tmp_path / "out/dataset.json").read_text()
    assert MODEL in spec
    assert asked.url not in spec
    again = run("verify", tmp_path / "out", "--regenerate", 2, "--pipeline", f"{asked.url}#{MODEL}", "--json")
    assert json.loads(again.out)["regenerated"] == {"count": 2, "largest_difference": 0.0}
    refused = run("verify", tmp_path / "out", "--regenerate", 1)
    assert "give one that runs the model" in refused.err


def test_a_busy_server_is_asked_again_and_a_failed_image_is_a_failed_row(
    build: Callable[..., Outcome], asked: Asked, tmp_path: Path
) -> None:
    bad = candidate_seed(3, "b", 1)
    busy = (503, "application/json", b'{"detail":"try later"}')
    failed = (500, "application/json", b'{"detail":"Generation failed: out of memory\\u001b[31m"}')
    asked.reply = lambda body, number: busy if number == 0 else failed if body["seed"] == bad else None
    said = build()
    assert said.code == 0, said.err
    assert "4 trajectories, 1 failed" in said.out
    [row] = [
        row
        for rows in open_bench(tmp_path / "out").rows(["id", "error"], 9)
        for row in rows.to_pylist()
        if row["error"]
    ]
    assert row["id"] == "b/1"
    assert row["error"] == "the server answers 500: Generation failed: out of memory\\x1b[31m"
    asked.reply = lambda body, number: None
    assert build("--retry-failed").code == 0
    assert open_bench(tmp_path / "out").n_failed == 0


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((400, "application/json", b'{"detail":"Invalid sampling params: height"}'), "Invalid sampling params: height"),
        ((404, "application/json", b'{"detail":"Not Found"}'), "this is no SGLang-Diffusion with rollouts"),
        ((200, "application/octet-stream", b"\x80\x04."), "unpickles nothing"),
        ((200, "application/msgpack", b"\xc1"), "an answer that cannot be read"),
        ((200, "application/json", b"[]"), "another answer than one rollout"),
        ((200, "application/json", b'{"prompt":"x"}'), "ask for return_trajectory_latents"),
    ],
)
def test_other_answers_are_refused(build: Callable[..., Outcome], asked: Asked, reply: Any, message: str) -> None:
    asked.reply = lambda body, number: reply
    said = build()
    assert said.code == 2
    assert message in said.err


@pytest.mark.parametrize(
    ("pipeline", "options", "message"),
    [
        ("{url}", (), "does not name the server's model"),
        ("{url}#other/model", (), f"runs {MODEL}, not other/model"),
        ("http://127.0.0.1:9#m", (), "no server answers at http://127.0.0.1:9 (Connection refused)"),
        ("{url}#m", ("--scheduler", "DDIM"), "--scheduler is for pipelines that run here"),
        ("{url}#m", ("--dtype", "float16"), "--dtype is the server's"),
        ("{url}#m", ("--signals", "latent,x0,image"), "--signals other than latent and image"),
        ("{url}#m", ("--dry-run",), "a server makes is not known"),
    ],
)
def test_what_a_server_cannot_do_is_refused(
    build: Callable[..., Outcome], asked: Asked, pipeline: str, options: tuple[str, ...], message: str
) -> None:
    said = build("--pipeline", pipeline.format(url=asked.url), *options)
    assert said.code == 2
    assert message in said.err
    assert asked.bodies == []
