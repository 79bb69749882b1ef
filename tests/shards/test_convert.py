"""From one format to another and back: nothing is lost but what was to be dropped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from nbench.errors import NbenchError
from nbench.shards import convert as convert_module
from nbench.shards.convert import convert
from nbench.shards.convert_config import ConvertConfig
from nbench.shards.dataset import read_info
from nbench.shards.reader import open_bench
from nbench.shards.row_columns import arrow_schema
from nbench.shards.schema import DatasetInfo, TrajectoryBatch
from nbench.shards.scores import SCORE_SCHEMA, reference_path, scores_metadata, write_scores

from ..dataset_info import build
from .conftest import POSITIONS, rows


def table(where: str | Path) -> pa.Table:
    bench = open_bench(where)
    schema = arrow_schema(bench.info)
    return pa.Table.from_batches([rows.cast(schema) for rows in bench.rows(schema.names, 3)])


def config(source: Path, out: Path | str, **change: Any) -> ConvertConfig:
    return ConvertConfig(str(source), str(out), **change)


@pytest.mark.parametrize("per_shard", [2, 5, 7, 100])
def test_there_and_back_is_lossless(bench_folder: Path, tmp_path: Path, per_shard: int) -> None:
    convert(config(bench_folder, tmp_path / "tars", format="webdataset", rows_per_shard=per_shard))
    assert len(list((tmp_path / "tars/data").glob("*.tar"))) == -(-12 // per_shard)
    convert(config(tmp_path / "tars", tmp_path / "back", format="parquet", rows_per_shard=5))
    assert table(tmp_path / "back").equals(table(bench_folder))
    back, first = (read_info(path) for path in (tmp_path / "back", bench_folder))
    assert back.positions == first.positions
    assert back.preview == first.preview


def test_positions_are_dropped_but_never_the_last_of_a_bench(bench_folder: Path, tmp_path: Path) -> None:
    info, _ = convert(config(bench_folder, tmp_path / "few", positions="10,20"))
    assert info.stored == (10, 20, 50)
    assert table(tmp_path / "few")["latent_20"].equals(table(bench_folder)["latent_20"])
    with pytest.raises(NbenchError, match="latents 25 not in this bench"):
        convert(config(bench_folder, tmp_path / "none", positions="25"))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("format", ["parquet", "webdataset"])
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_types(
    bench_folder: Path,
    tmp_path: Path,
    format: Literal["parquet", "webdataset"],
    dtype: Literal["float32", "int8"],
) -> None:
    convert(config(bench_folder, tmp_path / "other", format=format, latent_dtype=dtype))
    old, new = (next(open_bench(path).batches(POSITIONS, batch_size=12)) for path in (bench_folder, tmp_path / "other"))
    for position in POSITIONS:
        was, now = old.latents[position].astype(np.float32), new.latents[position]
        if dtype == "float32":
            assert now.dtype == np.float32
            assert np.array_equal(was, now)
        else:
            step = np.abs(was).max((2, 3), keepdims=True) / 127
            assert now.dtype == np.float16
            assert (np.abs(was - now) <= step * 0.5 + np.abs(was) * 2**-10).all()
            assert np.abs(was - now).max() > 0
    if dtype == "float32":
        convert(config(tmp_path / "other", tmp_path / "back", format="parquet", latent_dtype="float16"))
        assert table(tmp_path / "back").equals(table(bench_folder))


def test_references_come_along(bench_folder: Path, tmp_path: Path) -> None:
    columns = [["p0", "p1"], [0, 1], [50, 50], ["prompt", "prompt"], [0.25, 0.5], ["ok", "ok"]]
    scores = pa.table(dict(zip(SCORE_SCHEMA.names, columns, strict=True)))
    old = {"scorer": "clip", "scorer_fingerprint": "s", "bench_fingerprint": "f" * 64}
    write_scores(reference_path(bench_folder, "clip"), scores, old)
    info, _ = convert(config(bench_folder, tmp_path / "tars", format="webdataset"))
    moved = open_bench(tmp_path / "tars").references["clip"]
    assert moved.select(SCORE_SCHEMA.names).equals(scores.cast(SCORE_SCHEMA))
    assert scores_metadata(moved) == old | {"bench_fingerprint": info.fingerprint}
    assert info.fingerprint != "f" * 64


@pytest.mark.parametrize("format", ["parquet", "webdataset"])
def test_to_and_from_a_url(bench_folder: Path, format: Literal["parquet", "webdataset"]) -> None:
    url = f"memory://nbench-{format}/bench"
    convert(config(bench_folder, url, format=format, rows_per_shard=4))
    assert table(url).equals(table(bench_folder))
    assert not [name for name in fsspec.filesystem("memory").find(f"/nbench-{format}") if name.endswith(".tmp")]


@pytest.mark.parametrize("out", ["folder", "memory://cut-short/bench"])
def test_an_interrupted_conversion_is_resumed(
    bench_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    out = out if "://" in out else str(tmp_path / out)
    calls: list[int] = []
    original = convert_module._rows

    def fails_at_the_second(*arguments: Any) -> Any:
        if len(calls) == 1:
            raise KeyboardInterrupt
        calls.append(1)
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(convert_module, "_rows", fails_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            convert(config(bench_folder, out, format="webdataset"))
    with pytest.raises(NbenchError, match=r"half built \(1 of 3 shards\)"):
        open_bench(out)
    _, summary = convert(config(bench_folder, out, format="webdataset"))
    assert summary.rows == 7  # the first shard's five rows were written before
    assert table(out).equals(table(bench_folder))
    with pytest.raises(NbenchError, match=r"another build \(rows_per_shard 5 there, 3 now\)"):
        convert(config(bench_folder, out, format="webdataset", rows_per_shard=3))


def test_a_new_folder_is_no_hub_id(bench_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`new/bench` has the form of one, and is where a person wants to write."""
    monkeypatch.chdir(tmp_path)
    convert(ConvertConfig("bench", "new/bench"))
    assert table("new/bench").equals(table(bench_folder))
    with pytest.raises(NbenchError, match="no bench at new/other"):
        open_bench("new/other")


def test_bad_input(bench_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NbenchError, match="is the source itself"):
        convert(config(bench_folder, bench_folder))
    with pytest.raises(NbenchError, match="no bench at"):
        convert(config(tmp_path / "nothing", tmp_path / "out"))
    with pytest.raises(NbenchError, match="cannot open nonsense://"):
        convert(config(bench_folder, "nonsense://x"))
    with pytest.raises(NbenchError, match="out of range"):
        replace(config(bench_folder, tmp_path), rows_per_shard=0)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_what_float16_cannot_hold_is_refused(
    info: DatasetInfo, tmp_path: Path, dtype: Literal["float16", "int8"]
) -> None:
    def large(numbers: range) -> list[TrajectoryBatch]:
        batch = rows(numbers)
        return [replace(batch, latents={k: latents.astype(np.float32) * 1e5 for k, latents in batch.latents.items()})]

    build(tmp_path / "wide", replace(info, latent_dtype="float32"), large)
    with pytest.raises(NbenchError, match=r"exceed 65504.*--latent-dtype float32"):
        convert(config(tmp_path / "wide", tmp_path / "narrow", latent_dtype=dtype))


def test_a_source_is_no_destination_of_its_own(bench_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(bench_folder)
    convert(config(bench_folder, "memory://same"))
    inside = bench_folder / "data" / "more"
    for source, out in (
        (bench_folder, tmp_path / "link"),
        (bench_folder, inside),
        (tmp_path / "link", inside),
        ("memory://same", "memory:///same"),
        ("memory://same", "memory://same//x"),
    ):
        with pytest.raises(NbenchError, match="is the source itself"):
            convert(ConvertConfig(str(source), str(out), fresh=True))


def test_a_link_to_itself_is_no_destination(bench_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(NbenchError, match="cannot write to"):
        convert(config(bench_folder, tmp_path / "loop"))
