"""Encodings of latents in Parquet: every reader reads them, and their sizes are as docs/format.md says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from nbench.builders.config import BuildConfig
from nbench.errors import NbenchError
from nbench.shards.convert import convert
from nbench.shards.convert_config import ConvertConfig
from nbench.shards.dataset import read_info
from nbench.shards.diff.datasets import diff_datasets
from nbench.shards.inspect import inspect
from nbench.shards.reader import open_bench
from nbench.shards.schema import DatasetInfo, TrajectoryBatch
from nbench.shards.verify import verify

from ..dataset_info import build
from .conftest import POSITIONS, rows

SHAPE = (4, 64, 64)


def gaussian(numbers: range) -> TrajectoryBatch:
    """Rows with latents of a usual size."""
    rng = np.random.default_rng(numbers.start)
    latents = {k: rng.normal(size=(len(numbers), *SHAPE)).astype(np.float16) for k in POSITIONS}
    return replace(rows(numbers, failed=4), latents=latents)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One data set as float16, as float32 with the same values, as int8, and as int8 with dictionaries."""
    root = tmp_path_factory.mktemp("encodings")
    from .conftest import info as described

    info: DatasetInfo = replace(described.__wrapped__(), latent_shape=SHAPE)  # type: ignore[attr-defined]
    build(root / "float16", info, lambda numbers: [gaussian(numbers)])
    for name, change in {
        "float32": {"latent_dtype": "float32"},
        "int8": {"latent_dtype": "int8"},
        "dictionary": {"latent_dtype": "int8", "int8_encoding": "dictionary"},
    }.items():
        changed: dict[str, Any] = change
        convert(ConvertConfig(str(root / "float16"), str(root / name), **changed))
    return {name: root / name for name in ("float16", "float32", "int8", "dictionary")}


def column_sizes(folder: Path) -> int:
    """Bytes of the columns of latents on disk."""
    total = 0
    for path in folder.glob("data/*.parquet"):
        metadata = pq.ParquetFile(path).metadata
        for group in map(metadata.row_group, range(metadata.num_row_groups)):
            for column in map(group.column, range(group.num_columns)):
                total += column.total_compressed_size if column.path_in_schema.startswith("latent_") else 0
    return total


def test_sizes(folders: dict[str, Path]) -> None:
    numbers = 11 * len(POSITIONS) * int(np.prod(SHAPE))  # row 4 failed
    sizes = {name: column_sizes(folder) / numbers for name, folder in folders.items()}
    assert sizes["float32"] <= 1.05 * sizes["float16"]  # the worst case: Gaussian noise at all positions
    assert sizes["dictionary"] <= 1.0
    assert sizes["int8"] > 1.25


@pytest.mark.parametrize("name", ["float32", "int8", "dictionary"])
def test_duckdb_and_polars_read_every_number(folders: dict[str, Path], name: str) -> None:
    shards = f"{folders[name]}/data/*.parquet"
    wanted = np.concatenate([gaussian(range(start, min(start + 5, 12))).latents[20] for start in (0, 5, 10)])
    wanted = np.delete(wanted.astype(np.float32), 4, 0)
    query = f"SELECT latent_20 FROM '{shards}' WHERE status = 'ok' ORDER BY prompt_id, candidate"
    by_duckdb = np.array([row[0] for row in duckdb.connect().execute(query).fetchall()]).reshape(wanted.shape)
    frame = pl.read_parquet(shards).filter(pl.col("status") == "ok")
    by_polars = np.stack(frame["latent_20"].to_list()).reshape(wanted.shape)
    np.testing.assert_array_equal(by_duckdb, by_polars)
    if name == "float32":
        np.testing.assert_array_equal(by_duckdb, wanted)
    else:
        scale = np.abs(wanted).max((2, 3)) / 127
        np.testing.assert_array_equal(by_duckdb, np.rint(wanted / scale[:, :, None, None]))


def test_both_encodings_of_int8_are_the_same_data_to_every_command(folders: dict[str, Path], tmp_path: Path) -> None:
    plain, dictionary = folders["int8"], folders["dictionary"]
    assert verify(dictionary).defects == ()
    report = diff_datasets(plain, dictionary)
    assert report.values == ()
    assert "int8_encoding" in {each.name for each in report.differences}
    assert inspect(open_bench(plain)).positions == inspect(open_bench(dictionary)).positions
    few = next(iter(open_bench(dictionary).to_datasets([20], streaming=True)))
    assert len(few["latent_20"]) == np.prod(SHAPE)
    info, _ = convert(ConvertConfig(str(dictionary), str(tmp_path / "again"), positions="20"))
    assert info.int8_encoding == "dictionary"  # it stays until it is changed
    info, _ = convert(ConvertConfig(str(dictionary), str(tmp_path / "tars"), format="webdataset"))
    assert (info.int8_encoding, "int8_encoding" in info.spec) == ("plain", False)
    info, _ = convert(ConvertConfig(str(dictionary), str(tmp_path / "plain"), int8_encoding="plain"))
    for path in plain.glob("data/*"):
        assert pq.read_table(path).equals(pq.read_table(tmp_path / "plain/data" / path.name))


def test_the_default_is_what_it_was(folders: dict[str, Path]) -> None:
    assert b"int8_encoding" not in (folders["int8"] / "dataset.json").read_bytes()
    assert read_info(folders["int8"]).int8_encoding == "plain"
    file = pq.ParquetFile(next(iter(sorted(folders["int8"].glob("data/*")))))
    assert all("DICTIONARY" not in str(file.metadata.row_group(0).column(i).encodings) for i in (14, 15))


def test_what_has_nothing_to_encode_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(NbenchError, match="is for int8 latents in Parquet, and these are float16 in parquet"):
        BuildConfig("ncc", int8_encoding="dictionary")
    with pytest.raises(NbenchError, match="these are int8 in webdataset"):
        BuildConfig("ncc", int8_encoding="dictionary", latent_dtype="int8", format="webdataset")
    with pytest.raises(NbenchError, match="these are float32"):
        convert(ConvertConfig(str(folders["float32"]), str(tmp_path / "x"), int8_encoding="dictionary"))
