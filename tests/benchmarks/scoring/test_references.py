"""The reference scores that a bench gets at the end of its build."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import nbench
from nbench.builders.config import BuildConfig
from nbench.errors import NbenchError
from nbench.shards.dataset import read_info
from nbench.shards.scores import read_scores, scores_metadata

QUICK = BuildConfig("genai-bench", limit=3, candidates=2, steps=4, batch_size=4, references=("clip",))


def test_references_are_scored_once(tmp_path: Path) -> None:
    config = replace(QUICK, out=tmp_path / "bench")
    nbench.build(config, progress=False)
    path = tmp_path / "bench/scores/clip.parquet"
    table, written = read_scores(path), path.stat().st_mtime_ns
    assert (table.num_rows, set(table["position"].to_pylist())) == (6, {4})
    assert scores_metadata(table)["bench_fingerprint"] == read_info(tmp_path / "bench").fingerprint
    assert not (tmp_path / "bench/scores/vqascore.parquet").exists()
    nbench.build(replace(config, references=None), progress=False)
    assert path.stat().st_mtime_ns == written
    assert (tmp_path / "bench/scores/vqascore.parquet").exists()


def test_a_training_set_has_none(tmp_path: Path) -> None:
    nbench.build(BuildConfig("ncc", out=tmp_path / "ncc", limit=2, steps=3, positions="1"), progress=False)
    assert not (tmp_path / "ncc/scores").exists()


def test_what_cannot_be_scored_is_said_before_the_work(
    sd15_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NbenchError, match=r"unknown reference clipp \(did you mean clip\?\)"):
        nbench.build(replace(QUICK, out=tmp_path / "named", references=("clipp",)), progress=False)
    assert not (tmp_path / "named").exists()
    other = replace(QUICK, out=tmp_path / "bench", pipeline=str(sd15_folder))
    with monkeypatch.context() as patched:
        patched.setattr("nbench.builders.shard_maker.Maker.shard", None)  # not one shard is made
        with pytest.raises(NbenchError, match="no clip weights fit"):
            nbench.build(other, progress=False)
    nbench.build(replace(other, references=None))  # none was asked for
    assert "no reference scores: no clip weights fit" in capfd.readouterr().err
    with pytest.raises(NbenchError, match="no clip weights fit"):
        nbench.build(other, progress=False)
