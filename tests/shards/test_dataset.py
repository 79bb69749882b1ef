"""The data set folder while it is built."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from nbench.errors import NbenchError
from nbench.shards.dataset import DatasetFolder, read_info
from nbench.shards.dataset_job import repair
from nbench.shards.parquet import ParquetShardWriter
from nbench.shards.reader import open_bench
from nbench.shards.schema import DatasetInfo

from ..dataset_info import build, commit_shard, missing
from .conftest import rows


def test_record_round_trip(info: DatasetInfo) -> None:
    assert DatasetInfo.from_json(info.to_json(), "here") == info
    assert not info.complete
    assert list(info.shard_rows(2)) == [10, 11]


def test_half_built_is_not_readable_and_can_be_finished(info: DatasetInfo, tmp_path: Path) -> None:
    whole = build(tmp_path / "whole", info, lambda numbers: [rows(numbers)])
    part = tmp_path / "part"
    folder = DatasetFolder(part)
    folder.create(info)
    writer = ParquetShardWriter(part, info, 1)
    writer.write(rows(info.shard_rows(1)))
    commit_shard(folder, 1, writer.commit())
    with pytest.raises(NbenchError, match=r"half built \(1 of 3 shards\): run the same `nbench build` command"):
        open_bench(part)
    folder = DatasetFolder(part)
    assert missing(folder) == [0, 2]
    for index in missing(folder):
        writer = ParquetShardWriter(part, info, index)
        writer.write(rows(info.shard_rows(index)))
        commit_shard(folder, index, writer.commit())
    assert (part / "dataset.json").read_bytes() == (whole / "dataset.json").read_bytes()
    assert read_info(part).complete


def test_a_lost_shard_is_missing_again(bench_folder: Path) -> None:
    (bench_folder / "data/test-00002-of-00003.parquet").unlink()
    folder = DatasetFolder(bench_folder)
    repair(folder.store)
    assert missing(folder) == [2]


def test_discarded_shards_leave_nothing(info: DatasetInfo, tmp_path: Path) -> None:
    writer = ParquetShardWriter(tmp_path, info, 0)
    writer.write(rows(range(2)))
    writer.discard()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_another_spec_is_refused_by_name(info: DatasetInfo, tmp_path: Path) -> None:
    folder = DatasetFolder(tmp_path / "bench")
    folder.create(info)
    folder.check(info.fingerprint, info.spec)
    with pytest.raises(NbenchError, match=r"another build \(guidance 1\.5 there, 3\.0 now\).*--fresh"):
        folder.check("e" * 64, {**info.spec, "guidance": 3.0})
    with pytest.raises(NbenchError, match=r"pipeline\.content c there, d now"):
        folder.check("e" * 64, {**info.spec, "pipeline": {"name": "shapes", "content": "d"}})
    settings = {"positions": list(range(51)), "prompts": {"sha256": "a" * 64}}
    with pytest.raises(NbenchError, match=r"\(positions 0\.\.50 there, 0\.\.50 \(every 5th\) now; other prompts\)"):
        folder.check_same({"positions": list(range(0, 51, 5)), "prompts": {"sha256": "b" * 64}}, settings)


def test_a_bench_with_a_similar_name_is_hinted_at(
    bench_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(bench_folder, tmp_path / "data" / "small")
    with pytest.raises(NbenchError, match=r"no bench at data/smal \(did you mean data/small\?\)"):
        open_bench("data/smal")


@pytest.mark.parametrize("out", ["file/bench", "/proc/bench"])
def test_unwritable(out: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NbenchError, match=r"cannot write to .*choose another --out"):
        DatasetFolder(tmp_path / out).check_writable()


def test_clear_removes_only_what_nbench_made(bench_folder: Path, info: DatasetInfo) -> None:
    for name in ("notes.txt", "data/mine.parquet", "data/test.csv", "scores/notes.txt"):
        (bench_folder / name).parent.mkdir(exist_ok=True)
        (bench_folder / name).write_text("mine")
    (bench_folder / "scores/clip.parquet").write_text("ours")
    folder = DatasetFolder(bench_folder)
    folder.clear()
    assert not folder.started
    folder.create(replace(info, fingerprint="0" * 64))
    assert missing(folder) == [0, 1, 2]
    left = {str(path.relative_to(bench_folder)) for path in bench_folder.rglob("*") if path.is_file()}
    assert left == {"notes.txt", "data/mine.parquet", "data/test.csv", "scores/notes.txt", "dataset.json"}
