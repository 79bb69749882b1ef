"""What several tests share."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .shards.hub_server import HubServer

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository as a clone would have it, times of change included, to run commands in."""
    folder = tmp_path_factory.mktemp("clone") / "nbench-clone"
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    for name in subprocess.check_output(listing, cwd=ROOT, text=True).split("\0"):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """A Hub of the test's own."""
    with HubServer() as server:
        yield server
