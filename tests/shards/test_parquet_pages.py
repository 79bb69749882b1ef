"""Pages and dictionaries that decode to far more than their file are counted before they are decoded."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nbench.errors import NbenchError
from nbench.shards import parquet
from nbench.shards.parquet_pages import decoded_size
from nbench.shards.reader import open_bench
from nbench.shards.schema import DatasetInfo

SHARD = "data/test-00000-of-00003.parquet"
TABLE = pa.table(
    {
        "text": [f"{'x' * 50}{row % 7}" for row in range(9000)],
        "list": [["p", None, "q"], [], None] * 3000,
        "number": np.random.default_rng(0).random(9000),
    }
)


def chunks(path: Path) -> list[tuple[Any, int]]:
    """The metadata of every column chunk, and where it starts."""
    metadata = pq.read_metadata(path)
    groups = (metadata.row_group(group) for group in range(metadata.num_row_groups))
    found = [group.column(number) for group in groups for number in range(metadata.num_columns)]
    return [(each, min(at for at in (each.dictionary_page_offset, each.data_page_offset) if at)) for each in found]


@pytest.mark.parametrize(
    "settings",
    [
        {"data_page_version": "1.0"},
        {"data_page_version": "2.0"},
        {"use_dictionary": False},
        {"write_page_checksum": True, "write_statistics": True},
    ],
)
def test_sizes_are_those_that_were_written(tmp_path: Path, settings: dict[str, Any]) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(TABLE, path, compression="zstd", data_page_size=3000, row_group_size=4000, **settings)
    with path.open("rb") as file:
        for chunk, start in chunks(path):
            size = decoded_size(file, start, start + chunk.total_compressed_size)
            assert size.values == chunk.num_values
            headers = chunk.total_uncompressed_size - size.bytes  # which the total of the metadata counts, too
            assert 0 < headers < chunk.total_uncompressed_size
            assert bool(size.dictionary) == chunk.has_dictionary_page


def test_a_damaged_header_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(TABLE, path)
    data, rng = bytearray(path.read_bytes()), np.random.default_rng(0)
    chunk, start = chunks(path)[0]
    for _ in range(300):
        damaged = bytearray(data)
        for place in rng.integers(start, start + 40, 3):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        with path.open("rb") as file:
            try:
                decoded_size(file, start, start + chunk.total_compressed_size)
            except ValueError as error:
                assert "page" in str(error)  # noqa: PT017


def test_pages_that_hold_more_than_the_metadata_say(tmp_path: Path, info: DatasetInfo) -> None:
    path = tmp_path / "bomb.parquet"
    numbers = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(256 * 4000, np.float16)), 256)
    pq.write_table(pa.table({"latent_00": numbers}), path, compression="zstd", use_dictionary=False)
    (chunk, _), *_ = chunks(path)
    assert path.stat().st_size < 20_000
    told = {name: getattr(chunk, name) for name in (
        "path_in_schema", "dictionary_page_offset", "data_page_offset", "total_compressed_size")}  # fmt: skip
    lying = SimpleNamespace(**told, total_uncompressed_size=100, num_values=1)
    group: Any = SimpleNamespace(num_rows=1, num_columns=1, column=lambda _: lying)
    with path.open("rb") as file, pytest.raises(ValueError, match="column latent_00 claims to hold 2,"):
        parquet._check_sizes(group, info, ["latent_00"], file)


def test_a_long_text_in_every_row_is_refused(bench_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "_MAX_BYTES", 2**20)
    path = bench_folder / SHARD
    table = pq.read_table(path)
    assert len(open_bench(bench_folder).prompts) == 4
    column = table.schema.get_field_index("prompt")
    bomb = table.set_column(column, "prompt", pa.array(["x" * 300_000] * len(table)))
    size = path.stat().st_size
    pq.write_table(bomb, path, compression="zstd", use_dictionary=["prompt"])
    bench = open_bench_of_any_size(bench_folder, monkeypatch)
    assert path.stat().st_size < size + 10_000
    with pytest.raises(NbenchError, match=r"its column prompt holds 1,500,000 bytes of text in 5 rows"):
        _ = bench.prompts


def open_bench_of_any_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The bench of a folder whose shards were changed."""
    monkeypatch.setattr("nbench.shards.reader.intact", lambda *_: True)
    return open_bench(folder)
