"""The small bench with a reference."""

from pathlib import Path

import pyarrow as pa

from nbench.benchmarks.scoring.score import score_bench
from nbench.shards.reader import Bench
from nbench.shards.scores import reference_path, write_scores

from ..small_bench import STEPS, Quality, make_bench
from .scoring.test_score import Brightness


def make_brightness_bench(path: Path) -> tuple[Bench, Quality, pa.Table]:
    """The small bench, of three shards, with the brightness of the image as its reference `clip`: its table too."""
    bench, truth = make_bench(path)
    table = score_bench(bench, Brightness(reads="image"), [STEPS])
    origin = {"scorer_fingerprint": "1", "bench_fingerprint": bench.info.fingerprint}
    write_scores(reference_path(bench.path, "clip"), table, origin)
    return bench, truth, table
