"""The benches of the tests of scores on disk."""

import pytest

from nbench.benchmarks.scoring.score import score_bench
from nbench.shards.reader import Bench
from nbench.shards.scores import reference_path, write_scores

from ...small_bench import STEPS, Quality, make_bench
from ..signals_bench import make_signals_bench
from .test_score import Brightness


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, Quality]:
    """The small bench, of three shards, with the brightness of the image as its reference `clip`."""
    bench, truth = make_bench(tmp_path_factory.mktemp("store") / "small")
    table = score_bench(bench, Brightness(reads="image"), [STEPS])
    origin = {"scorer_fingerprint": "1", "bench_fingerprint": bench.info.fingerprint}
    write_scores(reference_path(bench.path, "clip"), table, origin)
    return bench, truth


@pytest.fixture(scope="module")
def signals(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A bench with corrupted captions and estimates of x0."""
    return make_signals_bench(tmp_path_factory.mktemp("store") / "signals")
