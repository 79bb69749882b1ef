"""Batches for torch: every row once whatever the ranks and workers, and no row twice after an interruption."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from nbench.errors import NbenchError
from nbench.training.dataset import TrajectoryDataset

from ..dataset_info import build
from ..shards.conftest import info, rows  # noqa: F401  # `info` is a fixture

ALL = sorted(f"c{row}" for row in range(12) if row != 4)


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Twelve rows in three shards; row 4 failed."""
    return build(tmp_path / "bench", request.getfixturevalue("info"), lambda numbers: [rows(numbers, failed=4)])


def names(batches: object) -> list[str]:
    """Which rows they are: their corruptions say."""
    return [row["subject"] for batch in batches for row in batch["corruptions"]]  # type: ignore[attr-defined]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shuffle", [None, 1])
def test_every_row_once(folder: Path, workers: int, shuffle: int | None) -> None:
    data = TrajectoryDataset(folder, [20, 50], 4, images=True, shuffle=shuffle)
    batches = list(DataLoader(data, batch_size=None, num_workers=workers))
    assert sorted(names(batches)) == ALL
    want = rows(range(12))
    for batch in batches:
        numbers = [int(name[1:]) for name in names([batch])]
        assert batch["latents"][20].dtype == torch.float16
        assert np.array_equal(batch["latents"][20].numpy(), want.latents[20][numbers])
        assert want.images is not None
        assert np.array_equal(batch["images"].numpy(), want.images[numbers])


def test_ranks_share_the_rows(folder: Path) -> None:
    parts = [names(TrajectoryDataset(folder, [20], 4, rank=rank, world_size=3)) for rank in range(3)]
    assert sorted(name for part in parts for name in part) == ALL
    with pytest.raises(NbenchError, match="3 shards cannot be split among 4 readers"):
        names(TrajectoryDataset(folder, [20], 4, rank=0, world_size=4))


def test_epochs_differ(folder: Path) -> None:
    data = TrajectoryDataset(folder, [20], 12, shuffle=0)
    first = names(data)
    assert first == names(data)
    data.set_epoch(1)
    assert first != names(data)


@pytest.mark.parametrize("shuffle", [None, 2])
def test_an_interrupted_epoch_goes_on(folder: Path, shuffle: int | None) -> None:
    whole = names(TrajectoryDataset(folder, [20], 2, shuffle=shuffle))
    data = TrajectoryDataset(folder, [20], 2, shuffle=shuffle)
    batches = iter(data)
    taken = names([next(batches), next(batches), next(batches)])
    state = data.state_dict()
    other = TrajectoryDataset(folder, [20], 2, shuffle=shuffle)
    other.load_state_dict(state)
    assert taken + names(other) == whole


def test_a_position_that_is_not_stored(folder: Path) -> None:
    with pytest.raises(NbenchError, match="latents 21 not in this bench"):
        TrajectoryDataset(folder, [21])
