"""Every defect of a data set is reported with its shard and row."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest

from nbench.errors import NbenchError
from nbench.jobs.processes import Processes
from nbench.jobs.run import Run
from nbench.jobs.status import at_work
from nbench.shards.convert import convert
from nbench.shards.convert_config import ConvertConfig
from nbench.shards.dataset import DatasetFolder
from nbench.shards.fingerprint import fingerprint
from nbench.shards.formats import shard_writer
from nbench.shards.reader import open_bench
from nbench.shards.schema import DatasetInfo, TrajectoryBatch
from nbench.shards.scores import SCORE_SCHEMA, reference_path, write_scores
from nbench.shards.seeds import candidate_seed
from nbench.shards.verify import verify

from ..dataset_info import build, commit_shard
from .conftest import rows

Format = Literal["parquet", "webdataset"]


def true_rows(numbers: range) -> TrajectoryBatch:
    """Rows whose seeds are what a base seed of 0 gives; row 4 failed."""
    return replace(rows(numbers, failed=4), seeds=[candidate_seed(0, f"p{i // 3}", i % 3) for i in numbers])


@pytest.fixture(params=["parquet", "webdataset"])
def sound(info: DatasetInfo, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    spec = info.spec | {"seed": 0}
    info = replace(info, format=request.param, spec=spec, fingerprint=fingerprint(spec))
    return build(tmp_path / "bench", info, lambda numbers: [true_rows(numbers)])


def defects_of(path: Path) -> list[str]:
    return [str(defect) for defect in verify(path).defects]


def shard(path: Path, index: int) -> Path:
    return sorted((path / "data").iterdir())[index]


def test_a_sound_one_has_no_defects(sound: Path) -> None:
    before = sorted(sound.rglob("*"))
    report = verify(sound)
    assert report.defects == ()
    assert (report.rows, report.shards, report.left) == (12, 3, 0)
    assert sorted(sound.rglob("*")) == before


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_nor_has_a_converted_one(sound: Path, tmp_path: Path, dtype: Literal["int8", "float32"]) -> None:
    convert(ConvertConfig(str(sound), str(tmp_path / "new"), latent_dtype=dtype, rows_per_shard=4))
    assert defects_of(tmp_path / "new") == []


def test_one_flipped_bit_anywhere_is_found(sound: Path) -> None:
    path = shard(sound, 1)
    data = path.read_bytes()
    for place in np.random.default_rng(0).integers(0, len(data), 12):
        broken = bytearray(data)
        broken[place] ^= 1 << int(place) % 8
        path.write_bytes(broken)
        assert any(path.name in line and "SHA-256" in line for line in defects_of(sound))


def test_several_processes_share_a_check(sound: Path) -> None:
    """Prompts of three candidates go on in the next shard of five rows; what is wrong there only all shards show."""
    folder = DatasetFolder(sound)
    second, third = true_rows(range(5, 10)), true_rows(range(10, 12))
    for index, batch in (
        (1, replace(second, prompts=["other", *second.prompts[1:]])),
        (2, replace(third, prompt_ids=["p0", "p0"])),
    ):
        writer = shard_writer(sound, folder.info, index)
        writer.write(batch)
        commit_shard(folder, index, writer.commit())
    alone = verify(sound)
    texts = "\n".join(map(str, alone.defects))
    assert "row p1/2: belongs to prompt p1, but is among the candidates of p1" in texts
    assert "row p0/1: belongs to prompt p0, but is among the candidates of p3" in texts
    first = verify(sound, Run(share=(0, 2), shown=False))
    assert first.left == 1
    assert {defect.file for defect in first.defects} < {defect.file for defect in alone.defects}
    (status,) = at_work(sound)
    assert (status.title, status.done, status.units) == ("verify", 2, 3)
    assert verify(sound, Run(share=(1, 2), shown=False)).left == 0
    both = verify(sound)
    assert sorted(map(str, both.defects)) == sorted(map(str, alone.defects))
    assert not (sound / ".verify").exists()
    assert at_work(sound) == []
    verify(sound, Run(share=(0, 2), shown=False))
    shard(sound, 0).unlink()  # the record of its check does not count any more
    assert any("is missing" in line for line in defects_of(sound))


@pytest.mark.slow
def test_processes_find_the_same(sound: Path) -> None:
    shard(sound, 1).write_bytes(b"")
    assert verify(sound, Run(Processes((None, None)), shown=False)) == verify(sound)


def test_truncated_missing_and_foreign_files(sound: Path) -> None:
    first, second, third = (shard(sound, i) for i in range(3))
    first.write_bytes(first.read_bytes()[:-100])
    second.unlink()
    shutil.copy(third, third.with_name(f"test-00007-of-00009{third.suffix}"))
    lines = defects_of(sound)
    assert any(first.name in line and "bytes, not" in line for line in lines)
    assert f"data/{second.name}: is missing" in lines
    assert f"data/test-00007-of-00009{third.suffix}: is not a shard of this data set" in lines


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((path / "dataset.json").read_text())
    change(content)
    (path / "dataset.json").write_text(json.dumps(content))


def test_swapped_shards_are_found_even_when_the_record_was_swapped_too(sound: Path) -> None:
    first, second = shard(sound, 0), shard(sound, 1)
    spare = first.with_name("spare")
    first.rename(spare)
    second.rename(first)
    spare.rename(second)

    def swap(content: dict[str, Any]) -> None:
        one, two = content["shards"][:2]
        for key in ("bytes", "sha256"):
            one[key], two[key] = two[key], one[key]

    edit(sound, swap)
    lines = defects_of(sound)
    assert "dataset.json: was edited: its digest does not match" in lines
    assert any("belong to another shard" in line or "does not begin with key" in line for line in lines)
    assert any("candidate 2 is in the place of candidate 0" in line for line in lines)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda content: content["preview"].update(bias=[0, 0, 0]), "was edited"),
        (lambda content: content["spec"].update(seed=1), "its seed .* does not follow from the data set's seed 1"),
        (lambda content: content["spec"].update(guidance=9), "its fingerprint does not match its spec"),
        (lambda content: content["shards"].__setitem__(0, None), "is not built yet"),
    ],
)
def test_an_edited_record(sound: Path, change: Callable[[dict[str, Any]], object], what: str) -> None:
    edit(sound, change)
    report = "\n".join(defects_of(sound))
    assert "was edited" in report
    assert re.search(what, report)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(rows=13),
        lambda content: content["shards"][0].update(path="../../etc/passwd"),
        lambda content: content.update(latent_shape=[2**40, 1, 1]),
        lambda content: content.update(candidates=0),
        lambda content: content["shards"].pop(),
        lambda content: content["positions"].reverse(),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(sound: Path, change: Callable[[dict[str, Any]], object]) -> None:
    edit(sound, change)
    with pytest.raises(NbenchError, match=r"dataset\.json is damaged"):
        verify(sound)


WRONG: dict[str, tuple[Callable[[TrajectoryBatch], TrajectoryBatch], str]] = {
    "nan": (lambda batch: _latent(batch, np.nan), r"row p2/0: its latent at 20 is not finite"),
    "infinite": (lambda batch: _latent(batch, np.inf), r"row p2/0: its latent at 20 is not finite"),
    "seed": (lambda batch: replace(batch, seeds=[7, *batch.seeds[1:]]), r"row p1/2: its seed 7"),
    "prompt again": (
        lambda batch: replace(batch, prompt_ids=["p1", *["p0"] * 3, "p2"]),
        r"prompt p0 appears twice",
    ),
    "candidate": (
        lambda batch: replace(batch, candidates=[2, 1, 1, 2, 0]),
        r"candidate 1 is in the place of candidate 0",
    ),
    "text": (
        lambda batch: replace(batch, prompts=[*batch.prompts[:2], "other", *batch.prompts[3:]]),
        r"row p2/1: belongs to prompt p2, but is among",
    ),
    "image": (lambda batch: replace(batch, images=np.zeros((5, 8, 16, 3), np.uint8)), r"its image is 16x8, not 16x16"),
    "no image": (lambda batch: replace(batch, images=None), "has no image|cannot be decoded"),
}


def _latent(batch: TrajectoryBatch, value: float) -> TrajectoryBatch:
    latents = {position: array.copy() for position, array in batch.latents.items()}
    latents[20][1, 0, 0, 0] = value
    return replace(batch, latents=latents)


@pytest.mark.parametrize("case", WRONG)
def test_wrong_rows(sound: Path, case: str) -> None:
    """Written anew with a true record, so that only a look at the rows themselves can tell."""
    change, what = WRONG[case]
    folder = DatasetFolder(sound)
    writer = shard_writer(sound, folder.info, 1)
    writer.write(change(true_rows(range(5, 10))))
    commit_shard(folder, 1, writer.commit())
    assert re.search(what, "\n".join(defects_of(sound)))


def test_too_few_rows(sound: Path) -> None:
    folder = DatasetFolder(sound)
    writer = shard_writer(sound, folder.info, 1)
    writer.write(true_rows(range(5, 9)))
    commit_shard(folder, 1, replace(writer.commit(), rows=5))
    assert any("has 4 rows, not 5" in line for line in defects_of(sound))


def test_score_tables(sound: Path) -> None:
    columns = [["p0", "p0"], [0, 0], [50, 50], ["prompt", "prompt"], [0.25, 0.5], ["ok", "ok"]]
    table = pa.table(dict(zip(SCORE_SCHEMA.names, columns, strict=True)))
    for bench_fingerprint, flaw in (
        ("another", "it scores another build"),
        (open_bench(sound).info.fingerprint, "more than once"),
    ):
        origin = {"bench_fingerprint": bench_fingerprint, "scorer_fingerprint": "s"}
        write_scores(reference_path(sound, "clip"), table, origin)
        (line,) = defects_of(sound)
        assert line.startswith("scores/clip.parquet: ")
        assert flaw in line
    reference_path(sound, "clip").write_bytes(b"no parquet")
    assert any("cannot read scores" in line for line in defects_of(sound))
