"""Shards as Parquet: encodings, row groups, what other readers see."""

from __future__ import annotations

import hashlib
import threading
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
import pytest

from nbench.shards import parquet
from nbench.shards.dataset import read_info
from nbench.shards.parquet_pages import DecodedSize
from nbench.shards.reader import open_bench
from nbench.shards.schema import DatasetInfo

from ..dataset_info import build
from .conftest import POSITIONS, SHAPE, rows


def test_latents_are_byte_stream_split_and_zstd(bench_folder: Path) -> None:
    group = pq.ParquetFile(bench_folder / "data/test-00000-of-00003.parquet").metadata.row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    for position in POSITIONS:
        column = columns[f"latent_{position:02d}.list.element"]
        assert column.has_column_index or column.has_offset_index
        assert "BYTE_STREAM_SPLIT" in column.encodings
        assert not column.has_dictionary_page
        assert column.compression == "ZSTD"


def test_a_plain_reader_sees_every_value(bench_folder: Path) -> None:
    shards = sorted(bench_folder.glob("data/*.parquet"))
    table = [row for path in shards for row in pq.read_table(path).to_pylist()]
    want = rows(range(12))
    assert [row["id"] for row in table] == [f"p{i // 3}/{i % 3}" for i in range(12)]
    assert [row["seed"] for row in table] == want.seeds
    for i, row in enumerate(table):
        if i == 4:
            assert (row["status"], row["error"], row["image"], row["latent_20"]) == ("failed", "not finite", None, None)
        else:
            assert (row["status"], row["error"]) == ("ok", None)
            assert np.array_equal(np.array(row["latent_20"], np.float16).reshape(SHAPE), want.latents[20][i])
            assert row["image"]["bytes"].startswith(b"\x89PNG")


def test_records_say_what_is_on_disk(bench_folder: Path) -> None:
    for record in read_info(bench_folder).shards:
        assert record is not None
        data = (bench_folder / record.path).read_bytes()
        assert (record.bytes, record.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert not list(bench_folder.rglob("*.tmp"))


def test_row_groups_are_bounded_by_bytes_and_bytes_do_not_depend_on_batches(
    info: DatasetInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row_bytes = 2 * int(np.prod(SHAPE)) * len(POSITIONS)
    monkeypatch.setattr(parquet, "ROW_GROUP_BYTES", 2 * row_bytes)
    whole = build(tmp_path / "whole", info, lambda numbers: [rows(numbers)])
    single = build(tmp_path / "single", info, lambda numbers: [rows(range(i, i + 1)) for i in numbers])
    metadata = pq.ParquetFile(whole / "data/test-00000-of-00003.parquet").metadata
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [2, 2, 1]
    assert read_info(whole).shards == read_info(single).shards


def test_the_datasets_library_shows_types_and_images(bench_folder: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(str(bench_folder), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["test"]
    data = loaded["test"]
    assert data.num_rows == 12
    assert isinstance(data.features["image"], datasets.Image)
    assert data.features["latent_20"] == datasets.List(datasets.Value("float16"), length=int(np.prod(SHAPE)))
    assert data[3]["tags"] == {"basic": ["attribute"], "advanced": []}
    images = rows(range(3, 4)).images
    assert images is not None
    assert np.array_equal(np.asarray(data[3]["image"]), images[0])


def test_polars_reads_latents(bench_folder: Path) -> None:
    import polars

    frame = polars.read_parquet(bench_folder / "data/*.parquet", columns=["id", "latent_20"]).drop_nulls()
    want = np.delete(rows(range(12)).latents[20], 4, axis=0)
    assert np.array_equal(frame["latent_20"].to_numpy().reshape(want.shape), want)


def test_duckdb_reads_names_and_float32_latents(bench_folder: Path, tmp_path: Path) -> None:
    import duckdb

    from nbench.shards.convert import convert
    from nbench.shards.convert_config import ConvertConfig

    convert(ConvertConfig(str(bench_folder), str(tmp_path / "wide"), latent_dtype="float32"))
    query = "SELECT id, latent_20 FROM '{}/data/*.parquet' WHERE status = 'ok' ORDER BY id"
    latents = dict(duckdb.connect().execute(query.format(tmp_path / "wide")).fetchall())
    want = rows(range(12)).latents[20]
    assert len(latents) == 11
    for row in (0, 7, 11):
        assert np.array_equal(np.array(latents[f"p{row // 3}/{row % 3}"]), want[row].astype(np.float32).ravel())
    counts = f"SELECT status, count(*) FROM '{bench_folder}/data/*.parquet' GROUP BY status"
    assert dict(duckdb.connect().execute(counts).fetchall()) == {"ok": 11, "failed": 1}


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
def test_full_row_groups_are_no_bombs(
    info: DatasetInfo, tmp_path: Path, dtype: Literal["float16", "float32", "int8"]
) -> None:
    """Of millions of numbers, so that what a column may claim to hold is near what it holds."""
    positions = tuple(place for place in info.positions if place.position == 50)
    info = replace(
        info, latent_dtype=dtype, latent_shape=(4, 256, 256), rows_per_shard=12, shards=(None,), positions=positions
    )
    rng = np.random.default_rng(0)
    latents = {50: rng.normal(size=(12, 4, 256, 256)).astype(np.float32)}
    build(tmp_path / "big", info, lambda numbers: [replace(rows(numbers), latents=latents)])
    read = next(open_bench(tmp_path / "big").batches([50], batch_size=12)).latents[50]
    assert np.abs(read - latents[50]).max() < (0.03 if dtype == "int8" else 2e-3)


class Elsewhere:
    """A file that is not on this machine: what is read of it, and the threads that read it or let go of it."""

    def __init__(self, path: Path) -> None:
        self._data, self._at = path.read_bytes(), 0
        self.requests: list[tuple[int, int]] = []
        self.threads: set[int] = set()
        self.closed = False
        weakref.finalize(self, lambda threads: threads.add(threading.get_ident()), self.threads)

    def seek(self, offset: int, whence: int = 0) -> int:
        self.threads.add(threading.get_ident())
        self._at = offset + (0, self._at, len(self._data))[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, count: int = -1) -> bytes:
        data = self._data[self._at :] if count < 0 else self._data[self._at : self._at + count]
        self.requests.append((self.seek(0, 1), len(data)))
        self._at += len(data)
        return data

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True


def test_a_file_elsewhere_stays_in_the_thread_that_reads_it(info: DatasetInfo, bench_folder: Path) -> None:
    """Arrow's threads outlive the interpreter: one that still holds a Python file then aborts the process."""
    source: Any = Elsewhere(bench_folder / "data/test-00000-of-00003.parquet")
    threads, requests = source.threads, source.requests
    columns = ["id", "prompt", "latent_20", "latent_50"]
    read = [row for batch in parquet.read_parquet(source, info, columns, 2) for row in batch.to_pylist()]
    del source
    assert threads == {threading.get_ident()}
    whole = pq.read_table(bench_folder / "data/test-00000-of-00003.parquet", columns=columns)
    assert read == whole.to_pylist()
    assert len(requests) == len(set(requests)) <= 5  # the end of the file (twice), and three spans of columns


def test_pages_elsewhere_are_looked_at_before_they_are_decoded(
    info: DatasetInfo, bench_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "decoded_size", lambda *_: DecodedSize(2**33, 0, 1))
    source: Any = Elsewhere(bench_folder / "data/test-00000-of-00003.parquet")
    with pytest.raises(ValueError, match="column latent_20 claims to hold 8,589,934,592 bytes"):
        next(parquet.read_parquet(source, info, ["latent_20"], 2))
