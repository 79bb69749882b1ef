"""In what two data sets differ: found by the comparison, expected from the numbers that were written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from nbench.shards.convert import convert
from nbench.shards.convert_config import ConvertConfig
from nbench.shards.diff.datasets import diff_datasets
from nbench.shards.diff.report import DiffReport
from nbench.shards.fingerprint import fingerprint
from nbench.shards.schema import DatasetInfo, PositionInfo, TrajectoryBatch
from nbench.shards.scores import SCORE_SCHEMA, reference_path, write_scores

from ..conftest import Run
from ..dataset_info import build
from .conftest import POSITIONS, rows

Changed = Callable[[TrajectoryBatch, range], TrajectoryBatch]


def write(path: Path, info: DatasetInfo, change: Changed | None = None) -> Path:
    def batches(numbers: range) -> list[TrajectoryBatch]:
        batch = rows(numbers, failed=4)
        return [change(batch, numbers) if change else batch]

    return build(path, info, batches)


def facts(report: DiffReport) -> dict[tuple[str, str], tuple[Any, Any]]:
    return {(each.part, each.name): (each.a, each.b) for each in report.differences}


def test_the_same_rows_are_the_same(info: DatasetInfo, bench_folder: Path, tmp_path: Path) -> None:
    report = diff_datasets(bench_folder, write(tmp_path / "again", info))
    assert report.same
    assert report.summary() == "A and B are the same: 12 rows in 3 shards"


def test_one_number_of_one_row(info: DatasetInfo, bench_folder: Path, tmp_path: Path) -> None:
    def change(batch: TrajectoryBatch, numbers: range) -> TrajectoryBatch:
        if 7 in numbers:
            batch.latents[20][numbers.index(7), 1, 2, 3] += np.float16(0.5)
        return batch

    old = rows(range(7, 8)).latents[20][0].astype(np.float64)
    new = old.astype(np.float16)
    new[1, 2, 3] += np.float16(0.5)
    report = diff_datasets(bench_folder, write(tmp_path / "other", info, change))
    [value] = report.values
    assert (value.name, value.compared, value.differ, value.first) == ("latent_20", 5, 1, "p2/1")  # one shard was read
    assert value.absolute == pytest.approx(np.abs(new.astype(np.float64) - old).max())
    assert value.relative == pytest.approx(np.linalg.norm(new.astype(np.float64) - old) / np.linalg.norm(old))
    assert {part for part, _ in facts(report)} == {"shards"}


def test_texts_images_and_failures(info: DatasetInfo, bench_folder: Path, tmp_path: Path) -> None:
    def change(batch: TrajectoryBatch, numbers: range) -> TrajectoryBatch:
        if 0 not in numbers:
            return batch
        assert batch.images is not None
        batch.images[2, 0, 0, 0] ^= 0xFF
        prompts = ["new words" if number < 3 else f"prompt {number // 3}" for number in numbers]
        return replace(batch, prompts=prompts, errors=["", "", "", "lost", "not finite"])

    report = diff_datasets(bench_folder, write(tmp_path / "other", info, change))
    values = {value.name: value for value in report.values}
    assert facts(report)["prompts", "text of p0"] == ("prompt 0", "new words")
    assert set(values) == {"status", "error", "image", *(f"latent_{k:02d}" for k in POSITIONS)}
    assert (values["status"].first, values["status"].absolute) == ("p1/0", None)
    assert (values["latent_20"].differ, values["latent_20"].absolute) == (
        1,
        None,
    )  # one has none, so there is no distance
    old = rows(range(2, 3)).images
    assert old is not None
    assert values["image"].absolute == abs(int(old[0, 0, 0, 0]) - int(old[0, 0, 0, 0] ^ 0xFF))


def test_settings_positions_and_columns(info: DatasetInfo, bench_folder: Path, tmp_path: Path) -> None:
    spec = info.spec | {"guidance": 3.0, "pipeline": {"name": "other", "content": "d"}}
    positions = tuple(PositionInfo(k, None if k == 50 else 999.0 - k, 1 - k / 50, 1.0) for k in (0, 20, 50))
    other = replace(info, spec=spec, fingerprint=fingerprint(spec), positions=positions, latent_dtype="float32")
    report = diff_datasets(bench_folder, write(tmp_path / "other", other))
    found = facts(report)
    assert found["settings", "guidance"] == (1.5, 3.0)
    assert found["settings", "pipeline.name"] == ("shapes", "other")
    assert found["positions", "stored"] == ("0, 10, 20, 30, 50", "0, 20, 50")
    assert found["positions", "timestep at 0 and 1 more"] == (1000.0, 999.0)
    assert found["columns", "latent_10 and 1 more"] == ("2 columns", None)
    assert found["columns", "latent_00 and 2 more"] == ("256 x float16", "256 x float32")
    assert report.values == ()  # the same numbers in another type


def test_rows_are_matched_by_name_not_by_place(info: DatasetInfo, bench_folder: Path, tmp_path: Path) -> None:
    """The other one has candidate 2 of each prompt in a block of its own, lacks prompt 3, and has a prompt 9."""
    from nbench.shards.schema import Block

    order = [0, 1, 3, 4, 6, 7, 27, 28, 2, 5, 8, 29]  # numbers of rows as `rows` names them
    blocks = (Block("e" * 64, (0, 4), (0, 2)), Block("f" * 64, (0, 4), (2, 3)))
    other = replace(info, blocks=blocks, rows_per_shard=3)
    other = replace(other, shards=(None,) * other.n_shards)

    def batches(numbers: range) -> list[TrajectoryBatch]:
        return [rows(range(order[number], order[number] + 1), failed=4) for number in numbers]

    report = diff_datasets(bench_folder, build(tmp_path / "other", other, batches))
    found = facts(report)
    assert report.values == ()
    assert found["prompts", "p3"] == ("1 prompt", None)
    assert found["prompts", "p9"] == (None, "1 prompt")
    assert found["rows", "p3/0 and 2 more"] == ("3 rows", None)
    assert found["rows", "order, from row 2"] == ("p0/2", "p1/0")


@pytest.mark.parametrize("change", [{"format": "webdataset"}, {"latent_dtype": "int8"}])
def test_a_converted_data_set(bench_folder: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    convert(ConvertConfig(str(bench_folder), str(tmp_path / "other"), **change))
    report = diff_datasets(bench_folder, tmp_path / "other")
    assert ("settings", next(iter(change))) in facts(report)
    if "format" in change:
        assert report.values == ()
        return
    latents = rows(range(12)).latents[20].astype(np.float64)
    kept = np.delete(latents, 4, 0)
    step = np.abs(kept).max((2, 3)) / 127
    [value] = [value for value in report.values if value.name == "latent_20"]
    assert value.differ == 11
    assert value.absolute is not None
    assert 0.4 * step.max() < value.absolute <= 0.51 * step.max()  # rounding to a step of the scale, half of it at most


def test_references(info: DatasetInfo, bench_folder: Path, tmp_path: Path) -> None:
    def scores(folder: Path, *values: float) -> None:
        table = {"prompt_id": ["p0", "p1"], "candidate": [0, 0], "position": [50, 50], "caption": ["prompt"] * 2}
        cells = pa.table({**table, "score": list(values), "status": ["ok"] * 2}, SCORE_SCHEMA)
        origin = {"bench_fingerprint": info.fingerprint, "scorer_fingerprint": "s"}
        write_scores(reference_path(folder, "clip"), cells, origin)

    again = write(tmp_path / "again", info)
    scores(bench_folder, 0.25, 0.5)
    scores(again, 0.25, 0.75)
    report = diff_datasets(bench_folder, again)
    [value] = report.values
    assert (value.name, value.compared, value.differ) == ("scores of clip", 2, 1)
    assert (value.absolute, value.relative, value.first) == (0.25, 0.5, "p1/0 at 50")
    reference_path(again, "clip").unlink()
    assert facts(diff_datasets(bench_folder, again)) == {("references", "clip"): ("1 reference", None)}


def test_the_command_s_exit_codes_and_json(run: Run, info: DatasetInfo, bench_folder: Path, tmp_path: Path) -> None:
    again = write(tmp_path / "again", info)
    assert run("diff", bench_folder, again).code == 0
    convert(ConvertConfig(str(bench_folder), str(tmp_path / "few"), positions="20"))
    shown = run("diff", bench_folder, tmp_path / "few")
    assert shown.code == 1
    tables = shown.out.splitlines()[2:-1]  # between the paths and the summary
    assert max(map(len, tables)) <= 80
    assert "A and B differ in settings" in shown.out
    answer = json.loads(run("diff", bench_folder, tmp_path / "few", "--json").out)
    assert answer["same"] is False
    assert {"part": "positions", "name": "stored", "a": "0, 10, 20, 30, 50", "b": "20, 50"} in answer["differences"]
    assert run("diff", bench_folder, tmp_path / "none").code == 2
    (tmp_path / "results").mkdir()
    (tmp_path / "results/m.json").write_text("{}")
    mixed = run("diff", bench_folder, tmp_path / "results")
    assert (mixed.code, "give two data sets or two results" in mixed.err) == (2, True)


def test_one_by_url(run: Run, bench_folder: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for path in bench_folder.rglob("*"):
        if path.is_file():
            memory.pipe(f"/diff/{path.relative_to(bench_folder)}", path.read_bytes())
    assert run("diff", bench_folder, "memory://diff").code == 0
