"""A small data set of the forward process, which no denoiser has to make."""

from __future__ import annotations

from pathlib import Path

import pytest

from nbench.builders.build import build
from nbench.builders.config import BuildConfig
from nbench.shards.reader import Bench

from ..benchmarks.signals_bench import make_signals_bench


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 rendered scenes at positions 4, 5, 6 and 10 of 10, in shards of 20 rows."""
    out = tmp_path_factory.mktemp("scenes") / "scenes"
    config = BuildConfig(
        "ncc", out=out, process="forward", images="shapes:48", steps=10, positions="4:6,10", rows_per_shard=20
    )
    build(config, progress=False)
    return out


@pytest.fixture(scope="session")
def signals(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """12 prompts x 3 candidates with x0 estimates and a reference, at positions 0, 5 and 10 of 10."""
    return make_signals_bench(tmp_path_factory.mktemp("signals") / "bench")
