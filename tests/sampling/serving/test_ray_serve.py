"""The deployment with Ray Serve that the documentation shows, with two replicas on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nbench.pipelines.find import resolve_pipeline
from nbench.sampling.bestofn import BestOfN

from ..live import PROMPT

DOCUMENT = Path(__file__).parents[3] / "docs" / "serving.md"
REQUESTS = 7
BEFORE = """
import ray
from ray import serve
ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
serve.start(http_options={"port": PORT})
"""
AFTER = """
import concurrent.futures, json, httpx
url = "http://127.0.0.1:PORT"

def seeds(number):
    body = {"prompt": "PROMPT", "seed": number}
    return httpx.post(f"{url}/v1/images/generations", json=body, timeout=300).json()["nbench"]["selected"]

with concurrent.futures.ThreadPoolExecutor(REQUESTS) as clients:
    selected = list(clients.map(seeds, range(REQUESTS)))
counts = set()
while len(counts) < 2:
    text = httpx.get(f"{url}/metrics").text
    counts |= {float(line.split()[1]) for line in text.splitlines() if 'outcome="finished"' in line}
(application,) = serve.status().applications.values()
(deployment,) = application.deployments.values()
serve.shutdown()
ray.shutdown()
print(json.dumps([selected, sorted(counts), deployment.replica_states]))
"""


def deployment() -> str:
    """The documented code, with the embedded pipeline on a core in place of SDXL on a GPU."""
    (code,) = re.findall(r"```\n(from ray import serve\n.*?)```", DOCUMENT.read_text(), re.DOTALL)
    config = 'ServeConfig("shapes", model="noisyclip", policy="2:1", best_of=3, steps=4)'
    code, configs = re.subn(r"ServeConfig\(.*\)", config, code)
    code, places = re.subn(r'"num_gpus": 1', '"num_cpus": 1', code)
    assert (configs, places) == (1, 1)
    return str(code)


def members(session: int) -> dict[int, str]:
    """The command lines of all processes of a session, by their number."""
    commands: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            if os.getsid(int(folder.name)) == session and (command := (folder / "cmdline").read_text()):
                commands[int(folder.name)] = command.replace("\0", " ")
    return commands


@pytest.mark.slow
def test_two_replicas_answer_and_leave_no_process(world: Any, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = BEFORE + deployment() + AFTER
    for name, value in {"PORT": port, "PROMPT": PROMPT, "REQUESTS": REQUESTS}.items():
        code = code.replace(name, str(value))
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=500)
        left = members(process.pid)
    finally:
        for pid in members(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert process.returncode == 0
    selected, counts, states = json.loads(output.splitlines()[-1])
    alone = [BestOfN(world, "noisyclip", 3, "2:1", seed=seed) for seed in range(REQUESTS)]
    call = {"num_inference_steps": 4, "guidance_scale": 7.0, **resolve_pipeline("shapes").call_kwargs}
    assert selected == [one.best(PROMPT, **call).seeds for one in alone]
    assert states == {"RUNNING": 2}
    assert 0 < counts[0] < counts[1]
    assert sum(counts) == REQUESTS
    assert all("Agent" in command for command in left.values()), left  # of Ray, which end by themselves in a minute
