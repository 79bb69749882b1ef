"""Data sets in `datasets` and `webdataset`, from both formats, against nbench's own reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from nbench.errors import NbenchError
from nbench.shards.convert import convert
from nbench.shards.convert_config import ConvertConfig
from nbench.shards.reader import Bench, open_bench

from ..small_bench import CANDIDATES, FAILED, PROMPTS, STEPS, make_bench

ROWS = PROMPTS * CANDIDATES


@pytest.fixture(scope="module", params=["parquet", "webdataset"])
def bench(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("libraries")
    made, _ = make_bench(folder / "small")
    if request.param == "parquet":
        return made
    convert(ConvertConfig(str(made.path), str(folder / "tars"), format="webdataset"))
    return open_bench(folder / "tars")


def latents(bench: Bench, position: int) -> dict[str, np.ndarray]:
    return {
        f"{prompt}/{candidate}": latent
        for batch in bench.batches([position])
        for prompt, candidate, latent in zip(batch.prompt_ids, batch.candidates, batch.latents[position], strict=True)
    }


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_has_every_row_as_stored(bench: Bench, streaming: bool, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    data = bench.to_datasets(positions=[5], streaming=streaming)
    if streaming:
        assert data.num_shards == len(bench.info.shards)
    rows = list(data)
    assert len(rows) == ROWS
    failed = [row["id"] for row in rows if row["status"] != "ok"]
    assert len(failed) == 1
    assert failed[0].endswith(f"/{FAILED[1]}")
    expected = latents(bench, 5)
    for row in rows:
        if row["status"] == "ok":
            np.testing.assert_array_equal(np.ravel(row["latent_05"]), np.ravel(expected[row["id"]]))
            assert row["image"].size == tuple(reversed(bench.info.image_size))
    assert "latent_00" not in rows[0]


def test_webdataset_has_every_sample_split_among_workers(bench: Bench) -> None:
    expected = latents(bench, 5)
    samples = list(bench.to_webdataset(positions=[5, STEPS]))
    assert [sample["__key__"] for sample in samples] == list(expected)
    for sample in samples:
        np.testing.assert_array_equal(sample["x05.npy"], expected[sample["__key__"]])
        assert sample["image.png"].shape == (*bench.info.image_size, 3)
        assert sample["meta.json"]["id"] == sample["__key__"]
    keys = DataLoader(bench.to_webdataset(positions=[5], images=False), batch_size=None, num_workers=2)
    assert sorted(sample["__key__"] for sample in keys) == sorted(expected)


def test_shuffling_is_repeatable_and_loses_nothing(bench: Bench) -> None:
    orders = [
        [sample["__key__"] for sample in bench.to_webdataset([5], shuffle=50, images=False, seed=seed)]
        for seed in (0, 0, 1)
    ]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2]) == sorted(latents(bench, 5))


def test_what_is_not_stored_is_refused(bench: Bench) -> None:
    for read in (bench.to_datasets, bench.to_webdataset):
        with pytest.raises(NbenchError, match="latents 3 not in this bench"):
            read(positions=[3])
    with pytest.raises(NbenchError, match="shuffle -1"):
        bench.to_webdataset(shuffle=-1)
