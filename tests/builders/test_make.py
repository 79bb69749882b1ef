"""What does not fit, breaks or fills the disk: nothing is lost, and the same command goes on."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nbench.builders import build as build_module
from nbench.builders.build import build
from nbench.builders.config import BuildConfig
from nbench.builders.pipelines import load_pipeline
from nbench.errors import NbenchError
from nbench.shards.reader import open_bench
from nbench.shards.verify import verify

from .conftest import run_python
from .test_build import QUICK, files, latents

TINY = replace(QUICK, limit=4, batch_size=None)


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], bool]], None]:
    """Makes the denoiser run out of memory where a test says that a batch of so many images does not fit."""

    def install(fit: Callable[[int], bool]) -> None:
        def load(*arguments: Any) -> Any:
            pipe, calls = load_pipeline(*arguments), itertools.count(1)

            def check(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
                looking = next(calls) <= TINY.steps  # at the schedule, with one image, before the build begins
                if not looking and not fit(len(kwargs["hidden_states"]) // 2):  # guidance doubles the batch
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

            pipe.transformer.register_forward_pre_hook(check, with_kwargs=True)
            return pipe

        monkeypatch.setattr(build_module, "load_pipeline", load)

    return install


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "bench"
    build(replace(TINY, out=out), progress=False)
    return out


def test_a_batch_that_does_not_fit_is_halved_until_it_does(
    undisturbed: Path, tmp_path: Path, fits: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    fits(lambda images: images <= 1)
    report = build(replace(TINY, out=tmp_path / "bench"))
    assert (report.rows, report.failed) == (8, 0)
    assert "out of memory with 3 images at a time: going on with 1" in capsys.readouterr().err
    np.testing.assert_allclose(latents(tmp_path / "bench"), latents(undisturbed), atol=0.02)
    assert verify(tmp_path / "bench").defects == ()


def test_what_never_fits_is_a_failed_row_that_can_be_tried_again(
    undisturbed: Path, tmp_path: Path, fits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "bench"
    fits(lambda images: False)
    report = build(replace(TINY, out=out), progress=False)
    assert report.failed == report.rows == 8
    assert {str(row) for rows in open_bench(out).rows(["error"], 9) for row in rows["error"]} == {"out of memory"}
    assert verify(out).defects == ()
    monkeypatch.setattr(build_module, "load_pipeline", load_pipeline)
    again = build(replace(TINY, out=out, retry_failed=True), progress=False)
    assert (again.failed, again.built) == (0, 8)
    np.testing.assert_allclose(latents(out), latents(undisturbed), atol=0.02)
    assert verify(out).defects == ()


def test_other_errors_are_not_swallowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*arguments: Any) -> Any:
        pipe = load_pipeline(*arguments)
        pipe.transformer.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("shapes differ")))
        return pipe

    monkeypatch.setattr(build_module, "load_pipeline", load)
    with pytest.raises(RuntimeError, match="shapes differ"):
        build(replace(TINY, out=tmp_path / "bench"), progress=False)


FULL = """
import resource, sys
from pathlib import Path
from nbench.builders.build import build
from nbench.builders.config import BuildConfig
from nbench.errors import NbenchError
config = BuildConfig("genai-bench", out=Path(sys.argv[1]), limit=4, candidates=2, steps=4, rows_per_shard=2,
                     positions=sys.argv[2], references=())
most = int(sys.argv[3])
if most:
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))  # a file that grows beyond it fails, as on a full disk
try:
    build(config, progress=False)
except NbenchError as error:
    sys.exit(f"error: {error}")
"""


@pytest.mark.slow
def test_a_full_disk(tmp_path: Path) -> None:
    assert run_python(FULL, tmp_path / "calm", "all", 0).returncode == 0
    largest = max(len(data) for data in files(tmp_path / "calm").values())
    run = run_python(FULL, tmp_path / "full", "all", largest // 2)
    assert run.returncode == 1
    assert "error: cannot write" in run.stderr
    assert "run the same command" in run.stderr
    assert not [name for name in files(tmp_path / "full") if name.endswith(".parquet")]
    assert run_python(FULL, tmp_path / "full", "all", 0).returncode == 0
    assert files(tmp_path / "full") == files(tmp_path / "calm")


def test_a_folder_that_is_removed_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "bench"
    original = build_module.Maker.shard

    def removes(self: Any, index: int, *arguments: Any) -> Any:
        if index == 1:
            shutil.rmtree(out)
        return original(self, index, *arguments)

    monkeypatch.setattr(build_module.Maker, "shard", removes)
    with pytest.raises(NbenchError, match=r"cannot write .*run the same command"):
        build(replace(TINY, out=out), progress=False)
    monkeypatch.setattr(build_module.Maker, "shard", original)
    assert build(replace(TINY, out=out), progress=False).built == 8


@pytest.mark.slow
def test_killed_at_fifty_random_moments(tmp_path: Path) -> None:
    """SIGKILL at any instant, again and again, then left alone: the bytes of a build that nobody disturbed.

    Every attempt is a fork of a process that has the pipeline's libraries loaded, so that most of its time is spent
    generating, encoding, writing, renaming and recording.
    """
    config = BuildConfig(
        "genai-bench", out=tmp_path / "killed", limit=60, candidates=2, steps=2, rows_per_shard=3, references=()
    )
    calm = replace(config, out=tmp_path / "calm")
    began = time.monotonic()
    assert _forked(calm, None) == 0
    whole = time.monotonic() - began
    rng, kills = random.Random(0), 0
    while kills < 50:
        status = _forked(config, rng.uniform(0, whole / 10))
        if status == 0:  # finished before its time: begin anew, so that all moments have their turn
            assert files(tmp_path / "killed") == files(tmp_path / "calm")
            shutil.rmtree(tmp_path / "killed")
        else:
            assert status == -signal.SIGKILL
            kills += 1
    assert _forked(config, None) == 0
    assert files(tmp_path / "killed") == files(tmp_path / "calm")


def _forked(config: BuildConfig, seconds: float | None) -> int:
    """Build in a child, killed once it has done the first thing and `seconds` more have passed; how it ended."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # threads do not live through a fork
        build(config, progress=False)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
