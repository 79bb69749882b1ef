"""Two positions of fifty-one cost two positions, on this machine and from the Hub: counted in bytes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from nbench.shards.row_columns import latent_column
from nbench.shards.schema import TrajectoryBatch

from ..dataset_info import build, dataset_info
from .conftest import rows
from .hub.publisher import Publisher

WANTED = (20, 30)
READ = f"""
from pathlib import Path
from nbench import open_bench

def read_bytes():
    return int(Path("/proc/self/io").read_text().split()[1])

bench = open_bench({{where!r}})
list(bench.batches([20]))  # whatever is imported or looked up on the way
before = read_bytes()
shapes = [batch.latents[20].shape for batch in bench.batches({WANTED})]
print(read_bytes() - before, sum(shape[0] for shape in shapes))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """480 trajectories of all 51 positions, 2 KB each, in two shards."""
    rng = np.random.default_rng(0)

    def trajectories(numbers: range) -> list[TrajectoryBatch]:
        latents = {k: rng.normal(size=(len(numbers), 4, 16, 16)).astype(np.float16) for k in range(51)}
        return [replace(rows(numbers), latents=latents)]

    spec = {"kind": "genai-bench", "pipeline": {"name": "shapes", "content": "c"}}
    info = dataset_info(
        n_prompts=160, candidates=3, steps=50, rows_per_shard=240, stored=range(51), spec=spec, image_size=(16, 16)
    )
    return build(tmp_path_factory.mktemp("all") / "bench", info, trajectories)


def column_bytes(folder: Path) -> int:
    """What the wanted columns take on disk."""
    names = {f"{latent_column(k)}.list.element" for k in WANTED}
    total = 0
    for path in folder.glob("data/*.parquet"):
        metadata = pq.ParquetFile(path).metadata
        for group in range(metadata.num_row_groups):
            chunks = (metadata.row_group(group).column(i) for i in range(metadata.num_columns))
            total += sum(chunk.total_compressed_size for chunk in chunks if chunk.path_in_schema in names)
    return total


def test_on_this_machine(folder: Path) -> None:
    command = [sys.executable, "-c", READ.format(where=str(folder))]
    read, n_rows = map(int, subprocess.check_output(command, text=True).split())
    assert n_rows == 480
    assert column_bytes(folder) <= read <= 1.1 * column_bytes(folder)


@pytest.mark.slow
def test_from_the_hub(publish: Publisher, folder: Path) -> None:
    assert publish(folder).report["sent"] > 2
    publish.hub.sent = 0
    program = f"""
from nbench import open_bench
bench = open_bench("ann/bench")
print(sum(len(batch) for batch in bench.batches({WANTED})))
"""
    assert publish.python(program).split() == ["480"]
    assert column_bytes(folder) <= publish.hub.sent <= 1.1 * column_bytes(folder)
