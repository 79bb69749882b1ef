"""Fixtures that several tests share."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from nbench import cli
from nbench.pipelines.find import load_pipeline, resolve_pipeline
from nbench.shards.reader import Bench

from .s3_servers import S3Folder, S3Server, moto_server, s3_folder, seaweed_server
from .shards.hub.hub_server import HubServer
from .small_bench import Quality, make_bench
from .tiny_pipelines import FAMILIES, Family, save_sd15

ROOT = Path(__file__).parents[1]


class Outcome(NamedTuple):
    """The exit code and output of a command."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]
"""Runs `nbench ARGUMENTS`."""


LONGEST = ("test_readme.py", "test_trainer.py", "test_workers.py", "test_source.py", "test_build.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files start first: one that started last would run while other processes have nothing to do."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository like a clone, including modification times, to run commands in."""
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
    """A small bench, shared: do not write to it."""
    return make_bench(tmp_path_factory.mktemp("bench") / "small")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs `nbench ARGUMENTS` in this process, which imports torch only once."""
    monkeypatch.delenv("NBENCH_BENCH", raising=False)

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["nbench", *map(str, arguments)])
        capfd.readouterr()
        code: object = 0
        try:
            cli.main()
        except SystemExit as exit:
            code = exit.code or 0
        assert isinstance(code, int)
        return Outcome(code, *capfd.readouterr())

    return run


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """A Hub server for one test."""
    with HubServer() as server:
        yield server


@pytest.fixture(scope="session")
def sd15_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random SD1.5 pipeline: 4x8x8 latents, 16x16 images."""
    return save_sd15(tmp_path_factory.mktemp("sd15"))


QUICK = ("sd15", "flux", "qwen-image")
"""Families of the quick tests: guidance in one call, embedded, and in two calls."""


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(each, id=each.name, marks=() if each.name in QUICK else pytest.mark.slow) for each in FAMILIES
    ],
)
def family(request: pytest.FixtureRequest) -> Family:
    """Each pipeline family in turn."""
    family: Family = request.param
    return family


@pytest.fixture(scope="session")
def family_folder(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random pipeline of `family`, in a folder."""
    return family.saved(tmp_path_factory.mktemp(family.name))


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Server]:
    """A quick S3 server."""
    with moto_server() as server:
        yield server


@pytest.fixture(scope="session")
def seaweed() -> Iterator[S3Server]:
    """A real S3 server; takes some seconds to start."""
    with seaweed_server() as server:
        yield server


@pytest.fixture
def s3(moto: S3Server) -> Iterator[S3Folder]:
    """A new folder on the quick S3 server, which this process's clients use."""
    with s3_folder(moto) as folder:
        yield folder


@pytest.fixture
def real_s3(seaweed: S3Server) -> Iterator[S3Folder]:
    """A new folder on the real S3 server, which this process's clients use."""
    with s3_folder(seaweed) as folder:
        yield folder
