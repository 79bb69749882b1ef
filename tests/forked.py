"""Python programs in processes of their own that need not import torch again: forked from a server that has.

The server is a process without threads, so that forking it is safe. What is read as modules are imported (settings of
the Hub's client) is the server's; what is measured in memory, or must not have been imported, needs an interpreter of
its own.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import subprocess
import tempfile
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path

_SERVER = mp.get_context("forkserver")
_SERVER.set_forkserver_preload(
    [
        "torch",
        "transformers.models.clip.modeling_clip",
        "diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3",
        "nbench.cli",
        "nbench.benchmarks.build",
        "nbench.benchmarks.evaluate",
        "nbench.pipelines.generate",
    ]
)

_BEGIN = """
import os, sys

for descriptor, path in enumerate(outputs, 1):
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
os.environ.clear()
os.environ.update(environment)
sys.argv = words
exec(compile(code, "<program>", "exec"), {"__name__": "__main__"})
"""
"""What a process does first; as text, since it cannot import the tests."""


class Program:
    """A program at work: `code`, with `arguments` in sys.argv and `variables` besides those of the environment."""

    def __init__(self, code: str, *arguments: object, variables: Mapping[str, str] | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._outputs = [Path(self._folder.name) / name for name in ("out", "err")]
        given = {
            "words": ["-c", *map(str, arguments)],
            "environment": {**os.environ, **(variables or {})},
            "outputs": list(map(str, self._outputs)),
            "code": code,
        }
        self.process: BaseProcess = _SERVER.Process(target=exec, args=(_BEGIN, given))
        self.process.start()

    def ended(self, seconds: float = 600) -> subprocess.CompletedProcess[str]:
        """Its exit code and output, when it has ended."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(f"a program still runs after {seconds} s")
        out, err = (path.read_text() if path.exists() else "" for path in self._outputs)
        self._folder.cleanup()
        return subprocess.CompletedProcess([], self.process.exitcode, out, err)


def run_program(
    code: str, *arguments: object, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a `Program` to its end."""
    return Program(code, *arguments, variables=variables).ended()
