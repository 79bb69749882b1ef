"""Best-of-N by a scorer in another process or behind HTTP: as by the same scorer here, and its death loses nothing."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nbench.sampling.bestofn import BestOfN, BestOfNResult
from nbench.scorers.check import WORLD
from nbench.scorers.environments.server import ScorerServer
from nbench.scorers.registry import get_scorer

from ..conftest import Run
from .live import PROMPT, opened

STRANGE = Path(__file__).parents[1] / "scorers" / "environments" / "strange.py"


@pytest.fixture
def mortal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with as many bytes as processes that will still be killed, each in its second call."""
    (path := tmp_path / "mortal").write_bytes(b"")
    monkeypatch.setenv("MORTAL", str(path))
    return path


@pytest.fixture
def url(mortal: Path) -> Iterator[str]:
    """A server of the sound scorer."""
    with ScorerServer("127.0.0.1", 0, lambda space: get_scorer(f"{STRANGE}:Sums", space), WORLD) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        host, port = server.server_address[:2]
        yield f"http://{host!s}:{port}"
        server.shutdown()
        thread.join()


def best(folder: Path, scorer: str) -> BestOfNResult:
    pipe, arguments = opened(folder)
    return BestOfN(pipe, scorer, n=4, policy="1:3,2:2,4:1").best(PROMPT, **arguments)


def scores(result: BestOfNResult) -> list[dict[int, float]]:
    return [candidate.scores for candidate in result.candidates]


def test_the_scores_are_those_of_the_scorer_here(
    sd15_folder: Path, url: str, mortal: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    here = best(sd15_folder, f"{STRANGE}:Sums")
    assert len({round(values[1], 3) for values in scores(here)}) == 4
    served = best(sd15_folder, url)
    assert (served.seeds, scores(served)) == (here.seeds, scores(here))
    mortal.write_bytes(b"x")
    killed = best(sd15_folder, f"python:{sys.executable}:{STRANGE}:Dies")
    assert (killed.seeds, scores(killed)) == (here.seeds, scores(here))
    assert mortal.read_bytes() == b""
    assert "its process ended and is started again: killed by SIGKILL" in capfd.readouterr().err


def test_the_command_takes_such_scorers(url: str, run: Run, tmp_path: Path) -> None:
    command: tuple[Any, ...] = ("sample", "one green star", "--best-of", 2, "--policy", "2:1", "--steps", 4)
    for scorer in (f"python:{sys.executable}:{STRANGE}:Sums", url):
        done = run(*command, "--model", scorer, "--out", tmp_path / "image.png")
        assert done.code == 0, done.err
        assert "12 of 16 denoiser rows" in done.out + done.err
