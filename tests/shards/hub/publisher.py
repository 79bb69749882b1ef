"""Publishing in processes of their own, since the Hub client reads its settings when it is imported."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .hub_protocol import TOKEN
from .hub_server import HubServer

SHARDS = tuple(f"data/test-{index:05d}-of-00003.parquet" for index in range(3))
_PROGRAM = """
import json, sys
from nbench.errors import NbenchError
from nbench.shards.hub.config import PublishConfig
from nbench.shards.hub.publish import publish

options = json.loads(sys.argv[1])
try:
    report = publish(PublishConfig(options.pop("path"), options.pop("repo_id"), **options))
except NbenchError as error:
    sys.exit(f"error: {error}")
print(report.listing())
print(json.dumps({"url": report.url, "commit": report.commit, "bytes": report.bytes, "sent": report.sent}))
"""


@dataclass
class Outcome:
    """What a process that publishes leaves: the report, or the error, and all that it printed."""

    process: subprocess.CompletedProcess[str]

    @property
    def report(self) -> dict[str, Any]:
        assert self.process.returncode == 0, self.process.stderr
        return dict(json.loads(self.process.stdout.splitlines()[-1]))

    @property
    def error(self) -> str:
        assert self.process.returncode == 1, self.process.stderr
        assert "Traceback" not in self.process.stderr
        return next(line for line in self.process.stderr.splitlines() if line.startswith("error: "))

    @property
    def output(self) -> str:
        return self.process.stdout + self.process.stderr


@dataclass
class Publisher:
    """Runs `publish` in processes of their own; none of them ever shows a token."""

    hub: HubServer
    home: Path

    def environment(self, token: str | None = TOKEN) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        return kept | {"OMP_NUM_THREADS": "1"} | self.hub.environment(self.home, token)

    def command(self, path: Path | str, repo_id: str = "ann/bench", **options: Any) -> list[str]:
        return [sys.executable, "-c", _PROGRAM, json.dumps({"path": str(path), "repo_id": repo_id, **options})]

    def __call__(
        self, path: Path | str, repo_id: str = "ann/bench", token: str | None = TOKEN, **options: Any
    ) -> Outcome:
        command = self.command(path, repo_id, **options)
        process = subprocess.run(command, env=self.environment(token), capture_output=True, text=True, timeout=120)
        outcome = Outcome(process)
        assert not re.search("hf_[A-Za-z]{8}", outcome.output)
        return outcome

    def python(self, code: str) -> str:
        """What a program prints that talks to the server."""
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout


def recorded_sha256(folder: Path, index: int) -> str:
    """The hash of a shard, as dataset.json has it."""
    return str(json.loads((folder / "dataset.json").read_text())["shards"][index]["sha256"])
