"""Builds by several processes have the bytes of one process's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nbench.benchmarks.scoring.references import build
from nbench.builders.config import BuildConfig
from nbench.builders.merge import merge_parts
from nbench.errors import NbenchError
from nbench.jobs.options import EngineOptions
from nbench.shards.verify import verify

from .test_build import files

SMALL = BuildConfig("ncc", limit=6, candidates=1, steps=2, rows_per_shard=2)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build of one process."""
    out = tmp_path_factory.mktemp("alone") / "ncc"
    build(replace(SMALL, out=out), progress=False)
    return out


def test_parts_are_merged_when_all_are_there(alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "ncc"
    config = replace(SMALL, out=out)
    for name, value in {"ID": 4, "MIN": 4, "MAX": 5, "COUNT": 2}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    assert build(config, False, EngineOptions(rank="auto")).left == 1
    with pytest.raises(NbenchError, match="lacks 1 of 3 shards: 1; make them by the same nbench build"):
        merge_parts(out)
    assert build(config, False, EngineOptions(units="1")).left == 0
    assert merge_parts(out).complete
    assert files(out) == files(alone)
    assert merge_parts(out).complete  # again changes nothing
    assert files(out) == files(alone)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [EngineOptions(workers=2), EngineOptions(engine="ray", workers=2)])
def test_workers_make_the_same_bytes(alone: Path, tmp_path: Path, workers: EngineOptions) -> None:
    build(replace(SMALL, out=tmp_path / "ncc"), False, workers)
    assert files(tmp_path / "ncc") == files(alone)
    assert verify(tmp_path / "ncc").defects == ()
