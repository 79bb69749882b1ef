"""Data sets and results in a bucket: every command does there what it does in a folder."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from nbench.jobs.object_store import ObjectStore
from nbench.jobs.places import store_at
from nbench.jobs.records import Record, Records
from nbench.shards.dataset import read_info
from nbench.shards.reader import open_bench

from .conftest import Run
from .dataset_info import build as make
from .dataset_info import dataset_info
from .fault_proxy import Fault
from .s3_servers import S3Folder
from .shards.conftest import POSITIONS, SHAPE, rows

BUILD = ["build", "genai-bench", "--limit", "3", "--candidates", "2", "--steps", "4", "--rows-per-shard", "2"]
BUILD += ["--references", "clip"]
EVALUATE = ["evaluate", "--model", "clip", "--latents", "0,4"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stored(url: str) -> dict[str, bytes | None]:
    store = ObjectStore(url)
    return dict(store.read_all(store.list("")))


@pytest.mark.slow
def test_a_bench_in_a_bucket_is_that_of_a_folder(real_s3: S3Folder, run: Run, tmp_path: Path) -> None:
    local, url = tmp_path / "bench", f"{real_s3.url}/bench"
    assert run(*BUILD, "--out", local).code == 0
    real_s3.proxy.faults += [Fault("PUT .*/data/", "status", 503), Fault("PUT .*/records/", "lost")]
    real_s3.proxy.faults += [Fault("PUT .*/data/", "cut", skip=1), Fault("POST|DELETE", "status", 500)]
    built = run(*BUILD, "--out", url)
    assert built.code == 0, built.err
    assert not any(fault.times for fault in real_s3.proxy.faults)
    assert stored(url) == contents(local)

    for place in (local, url):
        assert run(*EVALUATE, "--bench", place, "--out", tmp_path / "results").code == 0
        done = run(*EVALUATE, "--bench", place, "--out", f"{real_s3.url}/{'b' if place == url else 'a'}")
        assert done.code == 0
        assert f"{real_s3.url}/{'b' if place == url else 'a'}/bench/clip.json" in done.out.replace("\n", "")
    a, b = stored(f"{real_s3.url}/a"), stored(f"{real_s3.url}/b")
    assert a["bench/clip.parquet"] == b["bench/clip.parquet"]
    assert a["bench/clip.parquet"] == (tmp_path / "results/bench/clip.parquet").read_bytes()

    assert run("verify", url).out.endswith("6 rows in 3 shards, no defects\n")
    assert run("references", url, "--add", "again=clip").code == 0
    assert set(open_bench(url).references) == {"clip", "again"}
    for source, out in ((local, tmp_path / "tars"), (url, f"{real_s3.url}/tars")):
        assert run("convert", source, out, "--format", "webdataset").code == 0
    tars = contents(tmp_path / "tars")
    assert {name: content for name, content in stored(f"{real_s3.url}/tars").items() if "scores" not in name} == {
        name: content for name, content in tars.items() if "scores" not in name
    }
    assert run(*BUILD, "--out", url, "--fresh").code == 0
    assert stored(url) == contents(local)


@pytest.mark.slow
def test_parts_in_a_bucket_are_merged(s3: S3Folder, run: Run, tmp_path: Path) -> None:
    info = dataset_info(n_prompts=4, candidates=3, steps=50, rows_per_shard=5, stored=POSITIONS, latent_shape=SHAPE)
    info = replace(info, image_size=(16, 16))
    whole, url = read_info(make(tmp_path / "whole", info, lambda numbers: [rows(numbers)])), f"{s3.url}/parts"
    store = store_at(url)
    store.create("dataset.json", info.to_json())
    for index, record in enumerate(whole.shards):
        assert record is not None
        missing = run("merge", url)
        assert (missing.code, f"lacks {3 - index} of 3 shards: {index}" in missing.err) == (2, True)
        store.put(record.path, tmp_path / "whole" / record.path, record.sha256)
        Records(store, info.fingerprint).add(index, Record(info.fingerprint, asdict(record)))
    assert run("merge", url).out.startswith(f"{url}: 12 trajectories in 3 shards\n")
    assert stored(url) == contents(tmp_path / "whole")


@pytest.mark.slow
def test_training_reads_a_bucket(s3: S3Folder, run: Run, tmp_path: Path) -> None:
    build = ["build", "ncc", "--limit", "32", "--steps", "4", "--positions", "2:3", "--rows-per-shard", "8"]
    assert run(*build, "--out", f"{s3.url}/ncc").code == 0
    assert run(*build, "--out", tmp_path / "ncc").code == 0
    assert stored(f"{s3.url}/ncc") == contents(tmp_path / "ncc")
    for data, out in ((f"{s3.url}/ncc", tmp_path / "a"), (tmp_path / "ncc", tmp_path / "b")):
        options = ("--positions", "2:3", "--epochs", 1, "--batch-size", 16, "--out", out)
        assert run("train", "noisyclip", "--data", data, *options).code == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]
