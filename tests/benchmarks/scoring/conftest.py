"""The benches of the tests of scores on disk."""

import pytest

from nbench.shards.reader import Bench

from ...small_bench import Quality
from ..brightness_bench import make_brightness_bench
from ..signals_bench import make_signals_bench


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, Quality]:
    """The small bench, of three shards, with the brightness of the image as its reference `clip`."""
    bench, truth, _ = make_brightness_bench(tmp_path_factory.mktemp("store") / "small")
    return bench, truth


@pytest.fixture(scope="module")
def signals(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A bench with corrupted captions and estimates of x0."""
    return make_signals_bench(tmp_path_factory.mktemp("store") / "signals")
