"""What several tests share."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nbench.pipelines.find import load_pipeline, resolve_pipeline
from nbench.shards.reader import Bench

from .shards.hub.hub_server import HubServer
from .small_bench import Quality, make_bench
from .tiny_pipelines import FAMILIES, Family, save_sd15

ROOT = Path(__file__).parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest starts first, so that all others run beside it."""
    items.sort(key=lambda item: item.path.name != "test_readme.py")


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


@pytest.fixture(scope="session")
def world() -> Any:
    """The embedded pipeline in float32 on the CPU."""
    return load_pipeline(resolve_pipeline("shapes"), "float32", "cpu")


@pytest.fixture(scope="session")
def small_bench(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, Quality]:
    """Shared, so not to be written to."""
    return make_bench(tmp_path_factory.mktemp("bench") / "small")


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """A Hub of the test's own."""
    with HubServer() as server:
        yield server


@pytest.fixture(scope="session")
def sd15_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random SD1.5 pipeline: 4x8x8 latents, 16x16 images."""
    return save_sd15(tmp_path_factory.mktemp("sd15"))


@pytest.fixture(scope="session", params=FAMILIES, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Family:
    """One kind of pipeline after another."""
    found: Family = request.param
    return found


@pytest.fixture(scope="session")
def family_folder(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random pipeline of `family`, in a folder."""
    return family.saved(tmp_path_factory.mktemp(family.name))
