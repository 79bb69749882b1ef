"""What does not fit, breaks or fills the disk: nothing is lost, and the same command goes on."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from nbench.builders import shard_maker as make_module
from nbench.builders.build import build
from nbench.builders.config import BuildConfig
from nbench.errors import NbenchError
from nbench.jobs.job import Context
from nbench.jobs.store import LocalStore
from nbench.progress import BuildProgress
from nbench.shards import dataset_job
from nbench.shards.reader import open_bench
from nbench.shards.verify import verify

from ..forked import run_program
from .conftest import Hooked
from .test_build import QUICK, files, latents

TINY = replace(QUICK, limit=4, batch_size=None)


def fitting(config: BuildConfig, most: int) -> Hooked:
    """The process of `config`, whose denoiser runs out of memory with more than `most` images at a time."""
    calls = itertools.count(1)

    def check(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        looking = next(calls) <= TINY.n_steps  # at the schedule, with one image, before the build begins
        if not looking and len(kwargs["hidden_states"]) // 2 > most:  # guidance doubles the batch
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    return Hooked(config, lambda pipe: pipe.transformer.register_forward_pre_hook(check, with_kwargs=True))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "bench"
    build(replace(TINY, out=out), progress=False)
    return out


def test_a_batch_that_does_not_fit_is_halved_until_it_does(
    undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(TINY, out=tmp_path / "bench")
    report = build(config, process=fitting(config, 1))
    assert (report.rows, report.failed) == (8, 0)
    assert "out of memory with 3 images at a time: going on with 1" in capsys.readouterr().err
    np.testing.assert_allclose(latents(tmp_path / "bench"), latents(undisturbed), atol=0.02)
    assert verify(tmp_path / "bench").defects == ()


def test_what_never_fits_is_a_failed_row_that_can_be_tried_again(undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "bench"
    config = replace(TINY, out=out)
    report = build(config, progress=False, process=fitting(config, 0))
    assert report.failed == report.rows == 8
    assert {str(row) for rows in open_bench(out).rows(["error"], 9) for row in rows["error"]} == {"out of memory"}
    assert verify(out).defects == ()
    again = build(replace(TINY, out=out, retry_failed=True), progress=False)
    assert (again.failed, again.built) == (0, 8)
    np.testing.assert_allclose(latents(out), latents(undisturbed), atol=0.02)
    assert verify(out).defects == ()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "name", "retry", "left"),
    [
        (make_module.Maker, "failed_again", False, 8),
        (make_module.Maker, "failed_again", True, 0),
        (LocalStore, "move", False, 0),
        (dataset_job, "merge", False, 0),
    ],
)
def test_a_retry_that_is_interrupted_leaves_a_data_set_that_can_be_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Any, name: str, retry: bool, left: int
) -> None:
    """The next run, which may retry rows or not, finds old shards, new ones beside them, or new ones in their place."""
    out = tmp_path / "bench"
    build(replace(TINY, out=out), progress=False, process=fitting(TINY, 0))
    original, calls = getattr(place, name), itertools.count(0 if name != "merge" else -1)

    def stopped(*arguments: Any) -> Any:
        if next(calls) >= 0:  # the first merge closes a data set that is whole
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(place, name, stopped)
        with pytest.raises(KeyboardInterrupt):
            build(replace(TINY, out=out, retry_failed=True), progress=False)
    report = build(replace(TINY, out=out, retry_failed=retry), progress=False)
    assert (report.rows, report.failed) == (8, left)
    assert verify(out).defects == ()
    assert not (out / "remade").exists()


def test_other_errors_are_not_swallowed(tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("shapes differ")

    config = replace(TINY, out=tmp_path / "bench")
    hooked = Hooked(config, lambda pipe: pipe.transformer.register_forward_pre_hook(fail))
    with pytest.raises(NbenchError, match=r"does not run \(RuntimeError: shapes differ\)"):
        build(config, progress=False, process=hooked)


FULL = """
import resource, sys
from pathlib import Path
from types import SimpleNamespace
from nbench.builders.build import build
from nbench.builders.config import BuildConfig
from nbench.errors import NbenchError
from nbench.progress import BuildProgress
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
    assert run_program(FULL, tmp_path / "calm", "all", 0).returncode == 0
    largest = max(len(data) for data in files(tmp_path / "calm").values())
    run = run_program(FULL, tmp_path / "full", "all", largest // 2)
    assert run.returncode == 1
    assert "error: cannot write" in run.stderr
    assert "run the same command" in run.stderr
    assert not [name for name in files(tmp_path / "full") if name.endswith(".parquet")]
    assert run_program(FULL, tmp_path / "full", "all", 0).returncode == 0
    assert files(tmp_path / "full") == files(tmp_path / "calm")


@pytest.mark.slow
def test_a_folder_that_is_removed_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "bench"
    original = make_module.Maker.shard

    def removes(self: Any, index: int, *arguments: Any) -> Any:
        if index == 1:
            shutil.rmtree(out)
        return original(self, index, *arguments)

    monkeypatch.setattr(make_module.Maker, "shard", removes)
    with pytest.raises(NbenchError, match=r"cannot write .*run the same command"):
        build(replace(TINY, out=out), progress=False)
    monkeypatch.setattr(make_module.Maker, "shard", original)
    assert build(replace(TINY, out=out), progress=False).built == 8


KILLED = """
import os, random, shutil, signal, sys, time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
import diffusers, torch, transformers
from nbench.builders.build import build
from nbench.builders.config import BuildConfig

# children are forks of a process that has loaded the libraries, so that what is killed is work, and no import
def run(config, seconds=None):
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        build(config, progress=False)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

calm, killed = Path(sys.argv[1]), Path(sys.argv[2])
config = BuildConfig("genai-bench", out=killed, limit=14, candidates=2, steps=2, rows_per_shard=3, references=(),
                     format=sys.argv[3])
began = time.monotonic()
assert run(replace(config, out=calm)) == 0
whole, rng, kills = time.monotonic() - began, random.Random(0), 0
while kills < int(sys.argv[4]):
    ended = run(config, rng.uniform(0, whole))
    if ended == 0:  # before its time: begin anew, so that every moment has its turn
        assert files(killed) == files(calm)
        shutil.rmtree(killed)
    else:
        assert ended == -signal.SIGKILL, ended
        kills += 1
assert run(config) == 0
assert files(killed) == files(calm)
print(kills)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("format", "kills"), [("parquet", 10), ("webdataset", 5)])
def test_killed_at_random_moments_the_bytes_are_those_of_a_calm_build(tmp_path: Path, format: str, kills: int) -> None:
    run = run_program(KILLED, tmp_path / "calm", tmp_path / "killed", format, kills)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split()[-1] == str(kills)


def test_progress_moves_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []
    clock = itertools.count(step=2)  # more than a second from one look at it to the next
    monkeypatch.setattr(make_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(BuildProgress, "advance", lambda self, count: told.append(count))
    config = replace(TINY, out=tmp_path / "bench", candidates=2, limit=2, batch_size=4, rows_per_shard=4)
    build(config, progress=False)
    steps = [count for count in told if count]
    assert len(steps) == config.n_steps
    np.testing.assert_allclose(steps, 4 / config.n_steps)  # all four rows go on with each step


def test_a_step_takes_the_time_since_the_one_before_per_trajectory(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []
    clock = iter([0.0, 5.0, 5.5, 6.5])  # the start, and the ends of three steps
    monkeypatch.setattr(make_module, "time", SimpleNamespace(monotonic=lambda: next(clock, 6.5)))
    steps = make_module._Steps(2, Context(lambda text: None, lambda rows: None, told.append))
    steps._last = 100.0  # nothing is told of rows
    for _ in range(3):
        steps.done(1 / 3)
    assert told == [0.25, 0.5]
