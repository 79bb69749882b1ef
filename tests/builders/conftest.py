"""The embedded pipeline, and programs in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from nbench.builders.pipelines import load_pipeline, resolve_pipeline

DIES = """
import os, signal

def dies(owner, name, calls):
    original, left = getattr(owner, name), [calls]
    def method(self, *arguments):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *arguments)
    setattr(owner, name, method)
"""
"""For programs of `run_python` that are to be killed when a method has been called so many times."""


@pytest.fixture(scope="session")
def world() -> Any:
    """The embedded pipeline in float32 on the CPU."""
    return load_pipeline(resolve_pipeline("shapes"), "float32", "cpu")


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
