"""Score tables."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from nbench.errors import NbenchError
from nbench.shards.scores import SCORE_SCHEMA, read_scores, reference_path, scores_metadata, write_scores


def _table() -> pa.Table:
    columns = [["p0", "p0"], [0, 1], [50, 50], ["prompt", "prompt"], [0.25, float("nan")], ["ok", "failed"]]
    return pa.table(dict(zip(SCORE_SCHEMA.names, columns, strict=True)))


def test_round_trip_with_provenance(tmp_path: Path) -> None:
    path = reference_path(tmp_path, "clip")
    write_scores(path, _table(), {"scorer": "clip", "bench_fingerprint": "f"})
    read = read_scores(path)
    assert read.schema.equals(SCORE_SCHEMA)
    assert read["score"][0].as_py() == 0.25
    assert scores_metadata(read) == {"scorer": "clip", "bench_fingerprint": "f"}
    assert [file.name for file in path.parent.iterdir()] == ["clip.parquet"]


def test_same_table_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_scores(tmp_path / name, _table(), {"scorer": "clip"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_bad_tables(tmp_path: Path) -> None:
    with pytest.raises(NbenchError, match=r"no scores at .*nbench evaluate"):
        read_scores(tmp_path / "clip.parquet")
    (tmp_path / "text.parquet").write_text("no")
    with pytest.raises(NbenchError, match="cannot read scores"):
        read_scores(tmp_path / "text.parquet")
    with pytest.raises(NbenchError, match="cannot write"):
        write_scores(tmp_path / "text.parquet" / "x.parquet", _table(), {})
