"""Reading a finished data set."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import nbench
from nbench.errors import NbenchError
from nbench.shards.convert import convert
from nbench.shards.convert_config import ConvertConfig
from nbench.shards.reader import open_bench
from nbench.shards.storage import Location

from .conftest import POSITIONS, rows


def test_batches_come_in_order_without_the_failed(bench_folder: Path) -> None:
    bench = nbench.open_bench(bench_folder)
    batches = list(bench.batches(POSITIONS, images=True, batch_size=2))
    want, kept = rows(range(12)), [i for i in range(12) if i != 4]
    assert [c for batch in batches for c in batch.candidates] == [i % 3 for i in kept]
    assert [s for batch in batches for s in batch.seeds] == [want.seeds[i] for i in kept]
    assert [t for batch in batches for t in batch.tags] == [want.tags[i] for i in kept]
    assert [c for batch in batches for c in batch.corruptions] == [want.corruptions[i] for i in kept]
    for position in POSITIONS:
        read = np.concatenate([batch.latents[position] for batch in batches])
        assert read.dtype == np.float16
        assert np.array_equal(read, want.latents[position][kept])
    assert want.images is not None
    images = [batch.images for batch in batches if batch.images is not None]
    assert np.array_equal(np.concatenate(images), want.images[kept])
    assert sum(batch.failed for batch in batches) == bench.n_failed == 1
    assert max(map(len, batches)) <= 2


def test_a_name_is_that_of_the_folder_however_it_is_reached(
    bench_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(bench_folder)
    monkeypatch.chdir(bench_folder)
    for where in (bench_folder, ".", f"{bench_folder}/", "data/..", f"{bench_folder}/data/.."):
        assert open_bench(where).name == bench_folder.name
    assert open_bench(tmp_path / "link").name == "link"


def test_prompts(bench_folder: Path) -> None:
    prompts = open_bench(bench_folder).prompts
    assert [p.prompt_id for p in prompts] == ["p0", "p1", "p2", "p3"]
    assert prompts[0].tags is None
    assert prompts[2] == ("p2", "prompt 2", {"basic": ["attribute"], "advanced": []})


def test_two_positions_touch_only_their_columns(bench_folder: Path) -> None:
    """With the bytes of all other latents and of the images overwritten, reading two positions still works."""
    for path in bench_folder.glob("data/*.parquet"):
        data = bytearray(path.read_bytes())
        group = pq.ParquetFile(path).metadata.row_group(0)
        for i in range(group.num_columns):
            column = group.column(i)
            if column.path_in_schema.startswith(("latent_00", "latent_10", "latent_50", "image")):
                start = column.dictionary_page_offset or column.data_page_offset
                data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
        path.write_bytes(data)
    read = np.concatenate([batch.latents[30] for batch in open_bench(bench_folder).batches([20, 30])])
    assert np.array_equal(read, np.delete(rows(range(12)).latents[30], 4, axis=0))
    with pytest.raises(NbenchError, match="cannot read"):  # the other columns really are spoilt
        list(open_bench(bench_folder).batches([10]))


def test_a_position_that_is_not_stored(bench_folder: Path) -> None:
    bench = open_bench(bench_folder)
    with pytest.raises(NbenchError, match=r"^latents 25 not in this bench: it has 0, 10, 20, 30, 50$"):
        list(bench.batches([20, 25]))
    with pytest.raises(NbenchError, match="latents 40 not in this bench"):
        bench.select("20,40")
    assert bench.select("all") == POSITIONS
    assert bench.select("10:30:10") == (10, 20, 30)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(NbenchError, match=r"no bench at .*nbench build"):
        open_bench(tmp_path / "none")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "format_version"),
        ({"rows": "many"}, "rows"),
        ({"colour": "red"}, "colour"),
        ({"spec": {}}, "pipeline"),
        ({"spec": {"pipeline": None}}, "pipeline"),
    ],
)
def test_a_damaged_record(bench_folder: Path, change: dict[str, object], message: str) -> None:
    record = bench_folder / "dataset.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), **change}))
    with pytest.raises(NbenchError, match=rf"dataset.json is damaged .*{message}"):
        open_bench(bench_folder)


def test_a_record_that_is_no_json(bench_folder: Path) -> None:
    (bench_folder / "dataset.json").write_text("{")
    with pytest.raises(NbenchError, match="is damaged"):
        open_bench(bench_folder)


def test_a_shard_cut_short(bench_folder: Path) -> None:
    shard = bench_folder / "data/test-00001-of-00003.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(NbenchError, match=r"test-00001-of-00003\.parquet is missing or cut short"):
        open_bench(bench_folder)


def test_a_pipe_is_no_record(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "dataset.json")
    with pytest.raises(NbenchError, match=r"no bench at .*: it has no dataset\.json"):
        open_bench(tmp_path)


def test_sizes_of_shards_come_from_one_listing(
    bench_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []
    size = Location.size

    def noted(location: Location, name: str) -> int | None:
        asked.append(name)
        return size(location, name)

    monkeypatch.setattr(Location, "size", noted)
    open_bench(bench_folder)
    convert(ConvertConfig(str(bench_folder), "memory://listed"))
    asked.clear()
    open_bench("memory://listed")
    assert asked == []
    shard = next((bench_folder / "data").iterdir())
    shard.rename(tmp_path / "moved")
    shard.symlink_to(tmp_path / "moved")  # as in the cache of the Hub
    open_bench(bench_folder)
    assert asked == []
    (tmp_path / "moved").write_bytes(b"short")
    with pytest.raises(NbenchError, match="is missing or cut short"):
        open_bench(bench_folder)
