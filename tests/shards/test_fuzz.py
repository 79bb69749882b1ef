"""However a data set is damaged, reading it works or ends in one clear line: nothing else is raised, run or written.

`NBENCH_FUZZ_MINUTES=30 make test ARGS='tests/shards/test_fuzz.py -k long'` tries other damage than the quick tests do.
"""

from __future__ import annotations

import base64
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nbench.errors import NbenchError
from nbench.shards.features import FEATURES_FILE
from nbench.shards.fingerprint import fingerprint
from nbench.shards.reader import open_bench
from nbench.shards.schema import DatasetInfo, TrajectoryBatch
from nbench.shards.scores import SCORE_SCHEMA, reference_path, write_scores
from nbench.shards.seeds import candidate_seed
from nbench.shards.verify import verify

from ..dataset_info import build
from .conftest import rows
from .damage import DAMAGES, Damage, edit, record, shards
from .watch import look, read_all, watched

KINDS = [("parquet", "float16"), ("parquet", "int8"), ("webdataset", "float16"), ("webdataset", "int8")]
EXAMPLES = 40


@pytest.fixture
def sound(tmp_path: Path, info: DatasetInfo) -> list[Path]:
    """A data set of each kind, with a score table; each is read once, so that lazy imports are done."""
    folders = []
    for form, dtype in KINDS:
        folders.append(tmp_path / f"{form}-{dtype}")
        changed: Any = {"format": form, "latent_dtype": dtype}
        build(folders[-1], replace(info, **changed), lambda numbers: [rows(numbers, failed=4)])
        columns = [["p0", "p0"], [0, 1], [50, 50], ["prompt"] * 2, [0.25, 0.5], ["ok", "ok"]]
        table = pa.table(dict(zip(SCORE_SCHEMA.names, columns, strict=True)))
        write_scores(reference_path(folders[-1], "clip"), table, {"bench_fingerprint": info.fingerprint})
        read_all(folders[-1])
        verify(folders[-1])
    return folders


def fuzz(damage: Damage, sound: list[Path], examples: int, derandomize: bool) -> int:
    """Damage copies of data sets and look at them; how many were tried."""
    tried = 0

    @settings(
        max_examples=examples,
        derandomize=derandomize,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def once(data: st.DataObject) -> None:
        nonlocal tried
        tried += 1
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "bench"
            shutil.copytree(data.draw(st.sampled_from(sound)), folder)
            damage(data, folder)
            look(folder)

    once()
    return tried


@pytest.mark.slow
@pytest.mark.parametrize("name", DAMAGES)
def test_damage_ends_in_one_clear_line(sound: list[Path], name: str) -> None:
    assert fuzz(DAMAGES[name], sound, EXAMPLES, derandomize=True) >= EXAMPLES


@pytest.mark.skipif("NBENCH_FUZZ_MINUTES" not in os.environ, reason="NBENCH_FUZZ_MINUTES says for how long")
def test_for_long(sound: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    until, tried = time.monotonic() + 60 * float(os.environ["NBENCH_FUZZ_MINUTES"]), 0
    while time.monotonic() < until:
        for damage in DAMAGES.values():
            tried += fuzz(damage, sound, 5 * EXAMPLES, derandomize=False)
    with capsys.disabled():
        print(f"\n{tried} damaged data sets read and verified")


def of_one_prompt(info: DatasetInfo, form: str) -> DatasetInfo:
    spec = info.spec | {"seed": 0}
    changes: Any = {"format": form, "spec": spec, "fingerprint": fingerprint(spec)}
    return replace(info, n_prompts=1, rows=3, shards=(None,), **changes)


def named(prompt_id: str, prompt: str) -> Callable[[range], list[TrajectoryBatch]]:
    """Three sound rows of this prompt."""

    def trajectories(numbers: range) -> list[TrajectoryBatch]:
        seeds = [candidate_seed(0, prompt_id, number) for number in numbers]
        return [replace(rows(numbers), prompt_ids=[prompt_id] * 3, prompts=[prompt] * 3, seeds=seeds)]

    return trajectories


@pytest.mark.parametrize("form", ["parquet", "webdataset"])
@pytest.mark.parametrize("letter", ["a", "\0", "\N{SNOWMAN}", "\N{PILE OF POO}", "\n", '"'])
def test_a_prompt_of_a_million_letters(info: DatasetInfo, tmp_path: Path, form: str, letter: str) -> None:
    folder = build(tmp_path / "bench", of_one_prompt(info, form), named("p", letter * 10**6))
    with watched():
        (prompt,) = open_bench(folder).prompts
        assert prompt.prompt == letter * 10**6
        assert sum(len(batch) for batch in open_bench(folder).batches([20], images=True)) == 3
        assert verify(folder).defects == ()


NAMES = st.one_of(
    st.text(max_size=40),
    st.text(st.characters(), max_size=40),  # half surrogate pairs too
    st.sampled_from(["../../outside", "/tmp/outside", "..", "a\nb", "\0", "con", "x" * 5000, "\ud800", "a\udfff/0"]),
)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["parquet", "webdataset"])
def test_any_name_comes_back_or_is_refused(info: DatasetInfo, form: str) -> None:
    """And never becomes a path."""

    @settings(max_examples=EXAMPLES, derandomize=True, database=None, deadline=None)
    @given(NAMES, NAMES)
    def once(prompt_id: str, prompt: str) -> None:
        with tempfile.TemporaryDirectory() as place:
            folder, one_prompt = Path(place) / "box" / "bench", of_one_prompt(info, form)
            try:
                (prompt_id + prompt).encode()
            except UnicodeEncodeError:
                with pytest.raises(NbenchError, match="half a surrogate pair"):
                    build(folder, one_prompt, named(prompt_id, prompt))
                return
            build(folder, one_prompt, named(prompt_id, prompt))
            files = {path.relative_to(place).as_posix() for path in Path(place).rglob("*") if path.is_file()}
            types = [FEATURES_FILE] if form == "webdataset" else []
            assert files == {f"box/bench/{name}" for name in ("dataset.json", one_prompt.shard_path(0), *types)}
            assert [prompt[:2] for prompt in open_bench(folder).prompts] == [(prompt_id, prompt)]
            assert look(folder) == []

    once()


def spoil(folder: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change the first shard, and make the record fit."""
    path = shards(folder)[0]
    pq.write_table(change(pq.read_table(path)), path)
    record(folder)


def column(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.schema.names.index(name), name, values)


WRONG_TABLES: dict[str, tuple[Callable[[pa.Table], pa.Table], str]] = {
    "no status": (lambda table: table.drop_columns(["status"]), "has no column status"),
    "no latents": (lambda table: table.drop_columns(["latent_20"]), "has no column latent_20"),
    "texts for latents": (lambda table: column(table, "latent_20", table["prompt"]), "latent_20 is string, not fixed"),
    "more rows": (lambda table: pa.concat_tables([table] * 3), "row group of 15 rows|more than 5 rows"),
    "fewer rows": (lambda table: table.slice(1), "it has 4 rows, not 5"),
    "no prompt": (lambda table: column(table, "prompt", pa.nulls(5, pa.string())), "a row has no prompt"),
}


@pytest.mark.parametrize("case", WRONG_TABLES)
def test_a_shard_with_other_columns_is_named(bench_folder: Path, case: str) -> None:
    change, message = WRONG_TABLES[case]
    spoil(bench_folder, change)
    with pytest.raises(NbenchError, match=rf"cannot read .*test-00000-of-00003\.parquet \(.*({message})"):
        list(open_bench(bench_folder).batches([20]))
    assert any(message.split("|")[-1].split()[-1] in line for line in look(bench_folder))


def test_a_latent_that_is_not_there(bench_folder: Path) -> None:
    spoil(bench_folder, lambda table: column(table, "latent_20", pa.nulls(5, table["latent_20"].type)))
    with pytest.raises(NbenchError, match="a row that did not fail has nothing in latent_20"):
        list(open_bench(bench_folder).batches([20]))
    assert any("row p0/0: has no latent at 20" in line for line in look(bench_folder))


@pytest.mark.slow
def test_latents_that_claim_more_bytes_than_they_may_have(bench_folder: Path) -> None:
    """Forty million zeros in few bytes instead of 256 numbers: detected in the footer, not unpacked."""
    path = shards(bench_folder)[0]
    table = pq.read_table(path)
    claimed = base64.b64encode(table.schema.serialize())  # the type that Arrow is to see
    zeros = pa.array(np.zeros(40_000_000, np.float16))
    lists = pa.ListArray.from_arrays(pa.array([0, *[len(zeros)] * 5], pa.int32()), zeros)
    table = column(table, "latent_20", lists).replace_schema_metadata({"ARROW:schemX": claimed})
    pq.write_table(table, path, compression="zstd", use_dictionary=False)
    path.write_bytes(path.read_bytes().replace(b"ARROW:schemX", b"ARROW:schema"))  # which Arrow does not let one write
    record(bench_folder)
    assert path.stat().st_size < 2**20
    with pytest.raises(NbenchError, match=r"latent_20 claims to hold [89].,...,... bytes"):
        list(open_bench(bench_folder).batches([20]))


def test_a_tar_that_goes_in_circles(sound: list[Path]) -> None:
    """A member of negative size, which nobody asked for, leads back to itself."""
    folder = next(folder for folder in sound if folder.name == "webdataset-float16")
    sane = tarfile.TarInfo("00000000.x99.npy").tobuf(tarfile.GNU_FORMAT)
    block = bytearray(sane)
    block[124:136] = (-512).to_bytes(12, "big", signed=True)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    shards(folder)[0].write_bytes(sane + block + bytes(1024))
    record(folder)
    assert any("which no shard of nbench has" in line for line in look(folder))


def test_a_pipe_for_a_shard(bench_folder: Path) -> None:
    """Opening it would wait for a writer for ever."""
    shards(bench_folder)[0].unlink()
    os.mkfifo(bench_folder / "data/test-00000-of-00003.parquet")
    assert any("is missing" in line for line in look(bench_folder))


@pytest.mark.parametrize("shape", [[2**31 - 1, 1, 1], [2**30, 2**30, 16], [8192, 8192, 1]])
def test_latents_too_large_for_any_memory(bench_folder: Path, shape: list[int]) -> None:
    """Rows that failed have none, so the files would be small."""
    edit(bench_folder, lambda content: content.update(latent_shape=shape))
    assert all("out of range" in line for line in look(bench_folder))
