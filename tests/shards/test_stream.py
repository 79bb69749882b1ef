"""Shuffled, split, interrupted: every row comes once, and memory stays where it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nbench.errors import NbenchError
from nbench.shards import stream
from nbench.shards.reader import open_bench
from nbench.shards.schema import DatasetInfo, TrajectoryBatch
from nbench.shards.stream import Order, prefetch

from ..dataset_info import build
from .conftest import rows


@pytest.fixture(params=["parquet", "webdataset"])
def folder(info: DatasetInfo, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Twelve rows in six shards; row 4 failed."""
    info = replace(info, format=request.param, rows_per_shard=2, shards=(None,) * 6)
    return build(tmp_path / "bench", info, lambda numbers: [rows(numbers, failed=4)])


def read(folder: Path, order: Order, batch_size: int = 3) -> list[TrajectoryBatch]:
    return list(open_bench(folder).batches([20], batch_size=batch_size, order=order))


def names(batches: list[TrajectoryBatch]) -> list[int]:
    """Row numbers, which the seeds contain."""
    return [seed - 2**62 for batch in batches for seed in batch.seeds]


ALL = [row for row in range(12) if row != 4]


def test_shuffled_every_row_once_with_its_own_latents(folder: Path) -> None:
    batches = read(folder, Order(shuffle=1))
    assert sorted(names(batches)) == ALL != names(batches)
    want = rows(range(12)).latents[20]
    for batch in batches:
        assert np.array_equal(batch.latents[20], want[[seed - 2**62 for seed in batch.seeds]])
    assert [len(batch) + batch.failed for batch in batches] == [3, 3, 3, 3]


def test_the_same_seed_and_epoch_the_same_order(folder: Path) -> None:
    one = names(read(folder, Order(shuffle=1)))
    assert one == names(read(folder, Order(shuffle=1)))
    assert one != names(read(folder, Order(shuffle=1, epoch=1)))
    assert one != names(read(folder, Order(shuffle=2)))


@pytest.mark.parametrize("shuffle", [None, 3])
@pytest.mark.parametrize("parts", [1, 2, 4, 6])
def test_parts_share_the_rows(folder: Path, shuffle: int | None, parts: int) -> None:
    parts_read = [names(read(folder, Order(shuffle=shuffle, part=part, parts=parts))) for part in range(parts)]
    assert sorted(row for part in parts_read for row in part) == ALL


@pytest.mark.parametrize("shuffle", [None, 5])
@pytest.mark.parametrize("window", [1, 2**30])
@pytest.mark.parametrize("parts", [1, 2])
def test_an_interrupted_pass_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, shuffle: int | None, window: int, parts: int
) -> None:
    monkeypatch.setattr(stream, "WINDOW_BYTES", window)
    order = Order(shuffle=shuffle, part=parts - 1, parts=parts)
    whole = read(folder, order, batch_size=2)
    for taken in range(len(whole) + 1):
        skip = sum(len(batch) + batch.failed for batch in whole[:taken])
        assert names(read(folder, replace(order, skip=skip), batch_size=2)) == names(whole[taken:])


def test_more_readers_than_shards(folder: Path) -> None:
    with pytest.raises(NbenchError, match=r"6 shards cannot be split among 7 readers.*--rows-per-shard"):
        read(folder, Order(parts=7))
    with pytest.raises(NbenchError, match="no part 2 of 2: parts are numbered from 0"):
        read(folder, Order(part=2, parts=2))


def test_read_ahead_gives_the_same(folder: Path) -> None:
    bench = open_bench(folder)
    plain, ahead = (names(list(bench.batches([20], batch_size=2, ahead=ahead))) for ahead in (0, 2))
    assert plain == ahead == ALL
    with pytest.raises(NbenchError, match="not in this bench"):
        list(bench.batches([21], ahead=2))


def test_prefetch_stays_within_its_depth_and_stops_when_left() -> None:
    produced: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(1000):
            produced.append(number)
            yield number

    before = threading.active_count()
    items = prefetch(numbers(), 3)
    assert [next(items), next(items)] == [0, 1]
    time.sleep(0.3)
    assert len(produced) <= 2 + 3 + 1
    items.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_prefetch_raises_what_its_source_raises() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    items = prefetch(broken(), 2)
    assert next(items) == 1
    with pytest.raises(ValueError, match="broken"):
        next(items)
