"""What a trainer reads: every row once, the same batches for any number of processes, only the columns it needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nbench.errors import NbenchError
from nbench.shards import reader
from nbench.shards.convert import convert
from nbench.shards.convert_config import ConvertConfig
from nbench.shards.reader import Bench, open_bench
from nbench.training import examples
from nbench.training.config import TrainConfig
from nbench.training.examples import ExampleDataset, Examples


def batches(data: ExampleDataset) -> list[Examples]:
    return list(data)  # type: ignore[arg-type]  # a data set of torch is of dictionaries for mypy


def dataset(data: Path, share: tuple[int, int] = (0, 1), held_out: bool = False, **settings: Any) -> ExampleDataset:
    config = TrainConfig(data, Path("unused"), **{"positions": "4:6", "batch_size": 8, **settings})
    return ExampleDataset(config, open_bench(data), images=True, share=share, held_out=held_out)


@pytest.fixture(scope="module")
def resharded(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The scenes by rows per shard."""
    folder = tmp_path_factory.mktemp("resharded")
    for rows in (7, 48):
        convert(ConvertConfig(str(scenes), str(folder / str(rows)), rows_per_shard=rows))
    return {7: folder / "7", 20: scenes, 48: folder / "48"}


@pytest.mark.parametrize("window", [2**28, 6000])
def test_every_row_once_whatever_the_shards(
    resharded: dict[int, Path], monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    monkeypatch.setattr(examples, "WINDOW_BYTES", window)
    lengths = []
    for data in resharded.values():
        training, held_out = dataset(data), dataset(data, held_out=True)
        own = batches(training)
        rows = Counter(key for batch in [*own, *batches(held_out)] for key in batch.keys)
        assert len(own) == len(training)
        assert set(rows.values()) == {1}
        lengths.append((len(own), [len(batch) for batch in own[:-1]], len(rows)))
    assert lengths == [lengths[0]] * 3
    assert lengths[0][2] >= 47  # a single held-out row is no batch


def test_latents_are_those_stored_at_the_position_of_the_row(scenes: Path) -> None:
    table = {}
    for stored in open_bench(scenes).batches([4, 5, 6], images=True):
        assert stored.images is not None
        for row, name in enumerate(stored.prompt_ids):
            table[name] = {k: stored.latents[k][row] for k in (4, 5, 6)}, stored.images[row]
    seen = set()
    for batch in batches(dataset(scenes)):
        for row, (name, _) in enumerate(batch.keys):
            position = int(batch.position[row])
            seen.add(position)
            assert np.array_equal(batch.latents[row].numpy(), table[name][0][position].astype(np.float32))
        pictures = (batch.images.decoded([0])[0] * 255).permute(1, 2, 0).numpy()
        np.testing.assert_allclose(pictures, table[batch.keys[0][0]][1], atol=1e-3)
    assert seen == {4, 5, 6}


@pytest.mark.parametrize("process", ["reverse", "forward"])
def test_processes_share_each_batch(scenes: Path, process: str) -> None:
    whole = batches(dataset(scenes, process=process))
    parts = [batches(dataset(scenes, share=(rank, 2), process=process)) for rank in range(2)]
    for batch, *shares in zip(whole, *parts, strict=True):
        assert [share.keys for share in shares] == [batch.keys] * 2
        assert torch.equal(torch.cat([share.latents for share in shares]), batch.latents)
        assert [share.counts for share in shares] == [[len(share.latents) for share in shares]] * 2
    with pytest.raises(NbenchError, match="8 rows per batch cannot be split among 3 processes"):
        dataset(scenes, share=(0, 3))


def test_the_forward_process_adds_fresh_noise_to_the_finished_latent(scenes: Path) -> None:
    bench = open_bench(scenes)
    clean = {name: each.latents[10][row] for each in bench.batches([10]) for row, name in enumerate(each.prompt_ids)}
    data = dataset(scenes, process="forward", positions="0:10", batch_size=40)
    batch, noises = batches(data)[0], []
    stored = {at.position: at.sigma for at in bench.info.positions}
    for row, (name, _) in enumerate(batch.keys):
        position = int(batch.position[row])
        sigma = float(batch.noise_level[row] / (1 - batch.noise_level[row]))
        assert position not in stored or sigma == pytest.approx(stored[position], abs=1e-6)
        if sigma:  # flow matching: latent = (1 - sigma) x0 + sigma noise
            noises.append((batch.latents[row].numpy() - (1 - sigma) * clean[name].astype(np.float32)) / sigma)
    assert len(set(batch.position.tolist())) > 5
    assert np.std(noises) == pytest.approx(1, abs=0.03)
    data.set_epoch(1)
    assert not torch.equal(batches(data)[0].latents, batch.latents)
    with pytest.raises(NbenchError, match="--process forward has no x0 estimates"):
        dataset(scenes, process="forward", input="x0")


def test_large_data_are_read_at_one_position_per_row(
    resharded: dict[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examples, "WINDOW_BYTES", 21 * (2048 + 1024))  # three shards at one position
    read = reader.Bench.shard_rows
    columns = list[Sequence[str]]()

    def noted(self: reader.Bench, index: int, names: Sequence[str], batch_size: int) -> Any:
        columns.append([name for name in names if name.startswith("latent")])
        return read(self, index, names, batch_size)

    data = dataset(resharded[7])
    len(data)
    monkeypatch.setattr(reader.Bench, "shard_rows", noted)
    positions = {int(k) for batch in batches(data) for k in batch.position}
    assert len(columns) == 7
    assert all(len(names) == 1 for names in columns)
    assert positions == {4, 5, 6}


def test_a_curriculum_begins_with_the_last_positions(scenes: Path) -> None:
    data = dataset(scenes, curriculum=True, epochs=8)
    by_epoch = []
    for epoch in range(8):
        data.set_epoch(epoch)
        by_epoch.append({int(k) for batch in batches(data) for k in batch.position})
    assert by_epoch[0] == {6}
    assert by_epoch[-1] == {4, 5, 6}


def test_candidates_of_a_prompt_share_batch_and_position(signals: Bench) -> None:
    data = dataset(signals.path, objective="listwise", reference="clip", positions="0,5,10", batch_size=8)
    prompts, groups = list[str](), 0
    for batch in batches(data):
        groups += len(batch.groups.unique())
        for group in batch.groups.unique():
            rows = [int(row) for row in (batch.groups == group).nonzero()[:, 0]]
            assert [batch.keys[row] for row in rows] == [(batch.keys[rows[0]][0], n) for n in range(3)]
            assert len(batch.position[rows].unique()) == 1
            prompts.append(batch.keys[rows[0]][0])
        assert batch.reference.isfinite().all()
    assert len(prompts) == len(set(prompts)) == groups == data.units


def test_candidates_of_a_prompt_in_several_shards_share_a_batch(
    signals: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(ConvertConfig(str(signals.path), str(tmp_path / "split"), rows_per_shard=7))
    monkeypatch.setattr(
        ExampleDataset, "reference", {("p00", 0): 0.0, ("p00", 1): 1.0} | {("p01", 0): 0, ("p01", 1): 1}
    )
    data = dataset(tmp_path / "split", positions="0,5,10", batch_size=9, objective="listwise")
    groups = Counter(
        (name, int(batch.groups[row])) for batch in batches(data) for row, (name, _) in enumerate(batch.keys)
    )
    assert set(groups.values()) == {3}
    assert len(groups) == data.units


def test_validation_reads_no_more_than_it_uses(resharded: dict[int, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "WINDOW_BYTES", 6000)
    monkeypatch.setattr(examples, "VALIDATION_ROWS", 2)
    data = dataset(resharded[7], batch_size=2, held_out=True)
    monkeypatch.setattr(ExampleDataset, "_wanted", lambda self, name: True)
    read = list[int]()
    shard = ExampleDataset._shard

    def noted(self: ExampleDataset, index: int, positions: Sequence[int]) -> examples.Shard:
        read.append(index)
        return shard(self, index, positions)

    monkeypatch.setattr(ExampleDataset, "_shard", noted)
    assert [len(batch) for batch in batches(data)] == [2]
    assert len(read) <= 2


def test_noise_levels_that_are_not_recorded_are_told_to_no_model(small_bench: tuple[Bench, Any]) -> None:
    data = small_bench[0].path
    dataset(data, positions="0,5", batch_size=4)
    dataset(data, positions="0", batch_size=4, noise_level="token")
    with pytest.raises(
        NbenchError, match="noise level at position 5 is not recorded: use a model with --noise-level none"
    ):
        dataset(data, positions="0,5", batch_size=4, noise_level="token")
    with pytest.raises(NbenchError, match="does not state the scheduler that made it: use --process reverse"):
        dataset(data, positions="0,5", process="forward")
