"""`datasets` reads WebDataset shards with the types of the data set, whichever rows lack values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml  # type: ignore[import-untyped]

from nbench.shards.convert import convert
from nbench.shards.convert_config import ConvertConfig
from nbench.shards.features import FEATURES_FILE, dataset_features
from nbench.shards.hub.card import dataset_card
from nbench.shards.schema import DatasetInfo, TrajectoryBatch

from ..dataset_info import build
from .conftest import POSITIONS, rows

datasets = pytest.importorskip("datasets")


def untagged(numbers: range, failed: int) -> list[TrajectoryBatch]:
    """Rows without tags or corruptions in the first shards; one of them failed."""
    batch = rows(numbers, failed)
    late = [number >= 9 for number in numbers]
    tags = [value if there else None for value, there in zip(batch.tags, late, strict=True)]
    corruptions = [value if there else None for value, there in zip(batch.corruptions, late, strict=True)]
    return [replace(batch, tags=tags, corruptions=corruptions)]


@pytest.mark.parametrize("failed", [0, 2, 11])
def test_load_dataset_reads_every_row(info: DatasetInfo, tmp_path: Path, failed: int) -> None:
    info = replace(info, format="webdataset")
    folder = build(tmp_path / "tars", info, lambda numbers: untagged(numbers, failed))
    loaded = datasets.load_dataset(str(folder), split="test", cache_dir=str(tmp_path / "cache"))
    expected = rows(range(12))
    assert [row["meta.json"]["id"] for row in loaded] == [f"p{n // 3}/{n % 3}" for n in range(12)]
    assert loaded[8]["meta.json"]["tags"] is None
    assert loaded[10]["meta.json"]["tags"] == {"basic": ["attribute"], "advanced": []}
    assert loaded[failed]["image.png"] is None
    assert loaded[failed]["meta.json"]["error"] == "not finite"
    assert expected.images is not None
    for n in set(range(12)) - {failed}:
        assert np.array_equal(np.asarray(loaded[n]["image.png"]), expected.images[n])
        assert np.array_equal(np.asarray(loaded[n]["x20.npy"], np.float16), expected.latents[20][n])
    streamed = datasets.load_dataset(str(folder), split="test", streaming=True)
    assert [row["meta.json"]["status"] for row in streamed].count("failed") == 1


def test_the_types_are_those_that_datasets_infers_from_whole_rows(info: DatasetInfo, tmp_path: Path) -> None:
    info = replace(info, format="webdataset")
    tags = {"basic": ["a"], "advanced": ["b"]}
    folder = build(tmp_path / "tars", info, lambda part: [replace(rows(part), tags=[tags] * len(part))])
    stated = datasets.load_dataset(str(folder), split="test", cache_dir=str(tmp_path / "cache")).features
    (folder / FEATURES_FILE).unlink()
    inferred = datasets.load_dataset(str(folder), split="test", cache_dir=str(tmp_path / "cache")).features
    meta = dict(inferred["meta.json"], error=datasets.Value("string"), candidate=datasets.Value("int32"))
    assert stated == datasets.Features(dict(inferred, **{"meta.json": meta}))


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
def test_features_are_in_the_form_that_datasets_writes(info: DatasetInfo, dtype: Any) -> None:
    info = replace(info, format="webdataset", latent_dtype=dtype, signals=("latent", "x0", "cfg_gap", "image"))
    features = dataset_features(info)
    assert datasets.Features._from_yaml_list(features)._to_yaml_list() == features
    assert [each["name"] for each in features if each["name"].startswith("x")] == [
        name for k in POSITIONS for name in (f"x{k:02d}.npy", *([f"x0_{k:02d}.npy"] if k < 50 else []))
    ]
    front = yaml.safe_load(dataset_card(info, "ann/bench").split("---")[1])
    assert front["dataset_info"] == {"features": features}


def test_a_conversion_states_the_types_anywhere(bench_folder: Path, tmp_path: Path) -> None:
    folder, url = tmp_path / "tars", "memory://converted"
    convert(ConvertConfig(str(bench_folder), str(folder), format="webdataset"))
    convert(ConvertConfig(str(bench_folder), url, format="webdataset"))
    import fsspec

    remote = fsspec.filesystem("memory").cat_file(f"/converted/{FEATURES_FILE}")
    assert remote == (folder / FEATURES_FILE).read_bytes()
    convert(ConvertConfig(str(bench_folder), str(folder), fresh=True))
    assert not (folder / FEATURES_FILE).exists()
