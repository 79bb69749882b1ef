"""Signals beside the latents: written, read by column, verified, converted; old files stay what they were."""

from __future__ import annotations

import hashlib
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from nbench.console import TextConsole
from nbench.errors import NbenchError
from nbench.shards.convert import convert
from nbench.shards.convert_config import ConvertConfig
from nbench.shards.dataset import INFO_FILE
from nbench.shards.fingerprint import fingerprint
from nbench.shards.inspect import inspect, inspection_table
from nbench.shards.reader import Bench, open_bench
from nbench.shards.row_columns import arrow_schema
from nbench.shards.schema import DatasetInfo, TrajectoryBatch
from nbench.shards.signals import Activations, normal_signals
from nbench.shards.verify import verify

from ..dataset_info import build
from .conftest import POSITIONS, SHAPE, rows

LAYER, WIDTH = "mid_block.attn", 6
SIGNALS = ("latent", "x0", "cfg_gap", f"activations:{LAYER}:{WIDTH}", "image")
BEFORE_LAST = [k for k in POSITIONS if k < 50]
FORMATS = [("parquet", "float16"), ("parquet", "float32"), ("parquet", "int8"), ("webdataset", "float16")]


def signal_rows(numbers: range, failed: int = -1) -> TrajectoryBatch:
    rng, count = [np.random.default_rng(1000 + number) for number in numbers], len(numbers)
    return replace(
        rows(numbers, failed),
        x0={k: np.stack([r.normal(size=SHAPE).astype(np.float16) for r in rng]) for k in BEFORE_LAST},
        cfg_gap=np.stack([r.random(50, np.float32) for r in rng]),
        activations={LAYER: {k: np.arange(count * WIDTH).reshape(count, WIDTH) + k / 8 for k in BEFORE_LAST}},
    )


def write(info: DatasetInfo, path: Path, **changed: Any) -> Path:
    info = replace(info, fingerprint=fingerprint(info.spec), signals=SIGNALS, **changed)
    return build(path, info, lambda numbers: [signal_rows(numbers, failed=4)])


@pytest.fixture
def full(info: DatasetInfo, tmp_path: Path) -> Path:
    return write(info, tmp_path / "full")


def everything(bench: Bench, positions: Any = POSITIONS) -> TrajectoryBatch:
    wanted = ("latent", "x0", "cfg_gap", f"activations:{LAYER}")
    return next(bench.batches(positions, signals=wanted))


@pytest.mark.parametrize(("form", "dtype"), FORMATS)
def test_what_is_written_is_read(info: DatasetInfo, tmp_path: Path, form: Any, dtype: Any) -> None:
    bench = open_bench(write(info, tmp_path / "full", format=form, latent_dtype=dtype))
    batch, expected = everything(bench), signal_rows(range(5))
    sound = [0, 1, 2, 3]  # row 4 failed
    assert batch.failed == 1
    tolerance = 0.02 if dtype == "int8" else 0
    for k in BEFORE_LAST:
        np.testing.assert_allclose(batch.x0[k], expected.x0[k][sound], atol=tolerance)
        assert batch.activations[LAYER][k].dtype == np.float16
        np.testing.assert_array_equal(batch.activations[LAYER][k], expected.activations[LAYER][k][sound])
    assert np.array_equal(batch.x0[50], batch.latents[50])  # the estimate at T is the finished latent
    assert 50 not in batch.activations[LAYER]
    assert batch.cfg_gap is not None
    assert expected.cfg_gap is not None
    np.testing.assert_array_equal(batch.cfg_gap, expected.cfg_gap[sound])


def test_only_the_columns_of_the_signals_asked_for_are_read(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, columns_read = open_bench(full), list[str]()
    original = Bench.shard_rows

    def spy(self: Bench, index: int, columns: Any, batch_size: int) -> Any:
        columns_read.extend(columns)
        return original(self, index, columns, batch_size)

    monkeypatch.setattr(Bench, "shard_rows", spy)
    batch = next(bench.batches([20, 50], signals=("x0", "cfg_gap")))
    assert {name for name in columns_read if name not in ("prompt_id", "prompt", "candidate", "seed", "tags")} == {
        *("corruptions", "status", "x0_20", "latent_50", "cfg_gap")
    }
    assert (batch.latents, sorted(batch.x0)) == ({}, [20, 50])


def test_a_signal_that_is_not_there(full: Path, bench_folder: Path) -> None:
    plain = open_bench(bench_folder)
    message = "x0 not in this bench: it has latent, image; build it with --signals latent,x0,image"
    with pytest.raises(NbenchError, match=message):
        plain.require_signals(["x0"])
    with pytest.raises(NbenchError, match=message):
        plain.batches([20], signals=("x0",))
    with pytest.raises(NbenchError, match=r"no_such not in this bench: it has latent, image$"):
        plain.require_signals(["no_such"])
    with pytest.raises(NbenchError, match=r"build it with --signals latent,cfg_gap,activations:up.0,image"):
        plain.require_signals(["cfg_gap", "activations:up.0"])
    bench = open_bench(full)
    bench.require_signals(["latent", "x0", "cfg_gap", "image", f"activations:{LAYER}", f"activations:{LAYER}:6"])
    with pytest.raises(NbenchError, match="attn:7 not in this bench"):
        bench.require_signals([f"activations:{LAYER}:7"])


@pytest.mark.parametrize("form", ["parquet", "webdataset"])
def test_verify_sees_every_signal(info: DatasetInfo, tmp_path: Path, form: Any) -> None:
    assert verify(write(info, tmp_path / "full", format=form)).defects == ()
    bad = signal_rows(range(5))
    assert bad.cfg_gap is not None
    bad.x0[20][1, 0, 0, 0] = np.nan
    bad.cfg_gap[2, 7] = np.inf
    bad.activations[LAYER][10][3, 0] = np.nan
    changed = replace(info, fingerprint=fingerprint(info.spec), signals=SIGNALS, format=form)
    build(tmp_path / "bad", changed, lambda numbers: [bad if 0 in numbers else signal_rows(numbers)])
    assert sorted(str(defect).partition("row ")[2] for defect in verify(tmp_path / "bad").defects) == [
        "p0/1: its x0 at 20 is not finite",
        "p0/2: its cfg_gap is not finite",
        "p1/0: its activations:mid_block.attn:6 at 10 is not finite",
    ]


def test_convert_keeps_signals(full: Path, tmp_path: Path) -> None:
    kept, _ = convert(ConvertConfig(str(full), str(tmp_path / "few"), positions="20", rows_per_shard=7))
    assert kept.signals == SIGNALS
    names = pq.read_table(tmp_path / "few" / "data").column_names
    assert [name for name in names if name.startswith(("x0", "act", "cfg"))] == [
        "x0_20",
        "act_mid_block_attn_20",
        "cfg_gap",
    ]
    assert verify(tmp_path / "few").defects == ()
    convert(ConvertConfig(str(full), str(tmp_path / "tars"), format="webdataset", latent_dtype="int8"))
    convert(ConvertConfig(str(tmp_path / "tars"), str(tmp_path / "back"), format="parquet", latent_dtype="float32"))
    assert verify(tmp_path / "back").defects == ()
    was, now = everything(open_bench(full)), everything(open_bench(tmp_path / "back"))
    for k in POSITIONS:
        np.testing.assert_allclose(now.x0[k], was.x0[k], atol=0.02)
    assert np.array_equal(now.cfg_gap, was.cfg_gap)  # type: ignore[arg-type]
    assert np.array_equal(now.activations[LAYER][20], was.activations[LAYER][20])


def test_the_webdataset_package_reads_them(info: DatasetInfo, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    path = write(info, tmp_path / "tars", format="webdataset")
    shard = str(path / "data" / "test-00000-of-00003.tar")
    sample = next(iter(webdataset.WebDataset([shard], shardshuffle=False).decode()))
    expected = signal_rows(range(5))
    np.testing.assert_array_equal(sample["x0_20.npy"], expected.x0[20][0])
    np.testing.assert_array_equal(sample["act_mid_block_attn_20.npy"], expected.activations[LAYER][20][0])
    assert sample["cfg_gap.npy"].shape == (50,)
    assert "cfg_gap" not in sample["meta.json"]


def test_default_signals_leave_no_trace(info: DatasetInfo, bench_folder: Path) -> None:
    assert "signals" not in json.loads((bench_folder / INFO_FILE).read_bytes())
    assert "signals" not in json.loads(arrow_schema(info, 0).metadata[b"nbench"])
    assert hashlib.sha256(info.to_json()).hexdigest() == GOLDEN
    assert open_bench(bench_folder).info.signals == ("latent", "image")


GOLDEN = "ef3602e9f41d3c694da4de8573eb3110aa68a6fdf60ace3c2692e23b4fb716ea"
"""SHA-256 of a dataset.json of the first version, which has no signals."""


def test_signals_have_one_order() -> None:
    assert normal_signals(["image", " cfg_gap", "latent", "x0"]) == ("latent", "x0", "cfg_gap", "image")
    assert normal_signals(["activations:a.b", "latent", "image"]) == ("latent", "activations:a.b", "image")
    assert Activations.parse("activations:up.0:32") == Activations("up.0", 32)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("latent,x0", "lack image"),
        ("image,x0", "lack latent"),
        ("latent,image,noise", "no signal 'noise': there are latent, x0"),
        ("latent,image,x0,x0", "repeat a signal"),
        ("latent,image,activations:a.b,activations:a_b:3", "repeat a signal"),
        ("latent,image,activations:", "is not understood"),
        ("latent,image,activations:a:0", "DIM from 1"),
        ("latent,image,activations:a:9999999", "DIM from 1"),
        ("latent,image,activations:../../etc", "is not understood"),
        (f"latent,image,activations:{'a' * 73}", "at most 72 characters"),
    ],
)
def test_invalid_signals(names: str, message: str) -> None:
    with pytest.raises(NbenchError, match=message):
        normal_signals(names.split(","))


@pytest.mark.parametrize(
    ("signals", "message"),
    [
        (["latent"], "lack image"),
        (["image", "latent"], "not in their order"),
        (["latent", "activations:a", "image"], "have no width"),
        (["latent", *(f"activations:a{i}:65536" for i in range(1000)), "image"], "out of range"),
        ("latent", "valid tuple"),
    ],
)
def test_a_record_with_invalid_signals_is_refused(info: DatasetInfo, signals: Any, message: str) -> None:
    content = json.loads(info.to_json()) | {"signals": signals}
    with pytest.raises(NbenchError, match=message):
        DatasetInfo.from_json(json.dumps(content).encode(), "here")


def test_the_format_s_document_lists_every_column(info: DatasetInfo) -> None:
    document = (Path(__file__).parents[2] / "docs/format.md").read_text()
    table = document.partition("| column | type | content |\n|---|---|---|\n")[2].partition("\n\n")[0]
    rows_of_table = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()]
    patterns = {
        re.sub(r"_\d\d$", r"_\\d\\d", name.replace("LAYER", "mid_block_attn")): kind.replace("float32", "float")
        for names, kind, _ in rows_of_table
        for name in re.findall(r"`([^`]+)`", names)
    }
    for dtype in ("float16", "int8"):
        every = normal_signals((*SIGNALS, "x0@2", f"attention:{LAYER}:8"))
        schema = arrow_schema(replace(info, signals=every, latent_dtype=dtype))
        for field in schema:
            kinds = [kind for pattern, kind in patterns.items() if re.fullmatch(pattern, field.name)]
            assert kinds, f"{field.name} is not in docs/format.md"
            shown = str(field.type).replace("halffloat", "float16")
            wanted = [dtype if kind == "fixed-size list" else kind.partition("list of ")[2] for kind in kinds]
            if shown.startswith("fixed_size_list"):
                assert any(f": {each}>" in shown for each in wanted), (field.name, shown)
            else:
                assert any(kind.startswith(shown.partition("<")[0]) for kind in kinds), (field.name, shown)


def test_inspect_counts_the_bytes_of_every_signal(full: Path) -> None:
    summary = inspect(open_bench(full))
    table = pq.read_table(full / "data")
    sizes = {"latent": 2, "x0": 2, f"activations:{LAYER}:{WIDTH}": 2, "cfg_gap": 4}
    stems = {"latent_": "latent", "x0_": "x0", "act_": f"activations:{LAYER}:{WIDTH}", "cfg_gap": "cfg_gap"}
    counted = dict.fromkeys(sizes, 0)
    for name in table.column_names:
        for stem, signal in stems.items():
            if name.startswith(stem):
                counted[signal] += table.num_rows * table.schema.field(name).type.list_size * sizes[signal]
    assert summary.signals == counted
    assert summary.raw_bytes == sum(counted.values())
    TextConsole(file=(printed := io.StringIO()), width=80).print(inspection_table(summary))
    for signal, size in counted.items():
        assert f"{size:,} bytes raw" in printed.getvalue(), signal
