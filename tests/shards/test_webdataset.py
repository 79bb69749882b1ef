"""Shards as WebDataset: what is in the tar, what other readers see, and what is refused."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nbench.errors import NbenchError
from nbench.shards.dataset import read_info
from nbench.shards.reader import open_bench
from nbench.shards.schema import DatasetInfo

from ..dataset_info import build
from .conftest import POSITIONS, SHAPE, rows

FIRST = "data/test-00000-of-00003.tar"


@pytest.fixture
def tar_folder(info: DatasetInfo, tmp_path: Path) -> Path:
    return build(tmp_path / "tars", replace(info, format="webdataset"), lambda numbers: [rows(numbers, failed=4)])


def test_members_have_dot_free_keys_and_neither_date_nor_owner(tar_folder: Path) -> None:
    with tarfile.open(tar_folder / FIRST) as tar:
        members = tar.getmembers()
    of_a_row = ["meta.json", "image.png", *(f"x{k:02d}.npy" for k in POSITIONS)]
    names = [f"{row:08d}.{part}" for row in range(4) for part in of_a_row] + ["00000004.meta.json"]  # row 4 failed
    assert [member.name for member in members] == names
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {(0, 0, 0, "", "")}


def test_the_webdataset_package_reads_it_with_its_own_decoders(tar_folder: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    urls = sorted(str(path) for path in tar_folder.glob("data/*.tar"))
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    want = rows(range(12))
    assert [sample["__key__"] for sample in samples] == [f"{row:08d}" for row in range(12)]
    assert want.images is not None
    for row, sample in enumerate(samples):
        assert sample["meta.json"]["id"] == f"p{row // 3}/{row % 3}"
        if row == 4:
            assert sample["meta.json"]["status"] == "failed"
        else:
            assert np.array_equal(sample["x20.npy"], want.latents[20][row])
            assert np.array_equal(sample["image.png"], want.images[row])


def test_it_reads_as_parquet_does(tar_folder: Path, bench_folder: Path) -> None:
    tars, parquets = open_bench(tar_folder), open_bench(bench_folder)
    assert tars.prompts == parquets.prompts
    assert tars.n_failed == parquets.n_failed == 1
    for mine, theirs in zip(tars.batches([20, 50], True), parquets.batches([20, 50], True), strict=True):
        assert mine.tags == theirs.tags
        assert mine.corruptions == theirs.corruptions
        assert mine.seeds == theirs.seeds
        assert mine.latents[20].dtype == np.float16
        for position in (20, 50):
            assert np.array_equal(mine.latents[position], theirs.latents[position])
        assert np.array_equal(mine.images, theirs.images)  # type: ignore[arg-type]


def test_bytes_do_not_depend_on_batches(info: DatasetInfo, tmp_path: Path) -> None:
    info = replace(info, format="webdataset")
    whole = build(tmp_path / "whole", info, lambda numbers: [rows(numbers)])
    single = build(tmp_path / "single", info, lambda numbers: [rows(range(i, i + 1)) for i in numbers])
    assert read_info(whole).shards == read_info(single).shards


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def pickled(name: str, data: bytes) -> tuple[str, bytes]:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return name, buffer.getvalue()


HOSTILE: dict[str, tuple[Callable[[str, bytes], tuple[str, bytes]], str]] = {
    "a name that leads out": (lambda name, data: (f"../../{name}", data), "no shard of nbench has"),
    "an absolute name": (lambda name, data: (f"/tmp/{name}", data), "no shard of nbench has"),
    "a pickle": (pickled, "is not an array"),
    "a raw pickle": (lambda name, data: (name, pickle.dumps({"a": 1})), "is not an array"),
    "another shape": (lambda name, data: (name, npy(np.zeros((4, 8, 9), np.float16))), r"holds float16 \[4, 8, 9\]"),
    "another type": (lambda name, data: (name, npy(np.zeros(SHAPE, np.float64))), "holds float64|bytes, more than"),
    "far too much": (lambda name, data: (name, npy(np.zeros((4, 800, 800), np.float16))), "more than the"),
    "nothing": (lambda name, data: (name, b""), "is not an array"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_members_are_refused(tar_folder: Path, case: str) -> None:
    change, message = HOSTILE[case]
    rewrite(tar_folder / FIRST, lambda name, data: change(name, data) if name == "00000001.x20.npy" else (name, data))
    with pytest.raises(NbenchError, match=message):
        list(open_bench(tar_folder).batches([20]))


@pytest.mark.parametrize("meta", ["[1]", "{", '{"prompt": 5}', '{"candidate": "many"}', "[" * 100_000])
def test_hostile_names_are_refused(tar_folder: Path, meta: str) -> None:
    rewrite(tar_folder / FIRST, lambda name, data: (name, meta.encode() if name == "00000001.meta.json" else data))
    with pytest.raises(NbenchError, match=r"meta\.json"):
        list(open_bench(tar_folder).batches([20]))


def test_a_link_is_refused(tar_folder: Path) -> None:
    with tarfile.open(tar_folder / FIRST, "w") as tar:
        link = tarfile.TarInfo("00000000.x20.npy")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    record(tar_folder)
    with pytest.raises(NbenchError, match="no shard of nbench has"):
        list(open_bench(tar_folder).batches([20]))


def test_a_tar_cut_short_or_garbled(tar_folder: Path) -> None:
    path = tar_folder / FIRST
    whole = path.read_bytes()
    for data in (whole[:2000], b"x" * 5000):
        path.write_bytes(data)
        record(tar_folder)
        with pytest.raises(NbenchError, match=r"cut short|cannot read"):
            list(open_bench(tar_folder).batches([20]))


def rewrite(path: Path, change: Callable[[str, bytes], tuple[str, bytes]]) -> None:
    """Change members of a tar, and its record with it, as somebody would who wants it to be believed."""
    with tarfile.open(path) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            name, data = change(name, data)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    record(path.parents[1])


def record(folder: Path) -> None:
    content = json.loads((folder / "dataset.json").read_text())
    for shard in content["shards"]:
        shard["bytes"] = (folder / shard["path"]).stat().st_size
    (folder / "dataset.json").write_text(json.dumps(content))
