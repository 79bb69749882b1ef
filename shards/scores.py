"""Score tables: a scorer's score of every candidate at every position; metrics read only these."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import NbenchError, one_line, reason_of
from .atomic import atomic_write

PROMPT = "prompt"
"""The value of column `caption` for the prompt itself; corrupted captions carry the name of their kind."""

SCORE_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("candidate", pa.int32()),
        ("position", pa.int32()),
        ("caption", pa.string()),
        ("score", pa.float64()),
        ("status", pa.string()),
    ]
)


def reference_path(bench: Path, name: str) -> Path:
    """The path of a bench's reference `name`: scores of its final images."""
    return bench / "scores" / f"{name}.parquet"


def write_scores(path: Path, table: pa.Table, metadata: dict[str, Any]) -> None:
    """Write a score table (columns as in `SCORE_SCHEMA`) with its provenance; atomic.

    Raises:
        NbenchError: the folder cannot be written.
    """
    table = table.select(SCORE_SCHEMA.names).cast(SCORE_SCHEMA)
    table = table.replace_schema_metadata({"nbench": json.dumps(metadata, sort_keys=True)})
    try:
        content = pa.BufferOutputStream()
        pq.write_table(table, content, compression="zstd")
        atomic_write(path, content.getvalue())
    except OSError as error:
        raise NbenchError(f"cannot write {path}: {reason_of(error)}") from None


def read_scores(source: Path | bytes, origin: str | None = None) -> pa.Table:
    """Read a score table from a file or its bytes, called `origin` in errors; `scores_metadata` gives its provenance.

    Raises:
        NbenchError: no such file, or it is not a score table.
    """
    place = origin or str(source)
    try:
        # no threads with bytes: one that lets go of them as the interpreter ends aborts the process
        inside = isinstance(source, bytes)
        with pq.ParquetFile(pa.BufferReader(source) if inside else source) as file:
            table = file.read(use_threads=not inside)
        table.validate(full=True)
        scores_metadata(table)
    except FileNotFoundError:
        raise NbenchError(f"no scores at {place}: nbench evaluate or nbench references --add writes them") from None
    except Exception as error:  # on damaged bytes the reading libraries raise any type
        reason = reason_of(error)
        raise NbenchError(f"cannot read scores at {place}: {reason}") from None
    if not table.schema.equals(SCORE_SCHEMA):
        raise NbenchError(f"{place} is not a score table: it has columns {one_line(', '.join(table.column_names))}")
    return table


def scores_at(table: pa.Table, position: int) -> dict[tuple[str, int], float]:
    """The scores of the prompts at a position, by (prompt id, candidate)."""
    rows = table.filter(pc.and_(pc.equal(table["position"], position), pc.equal(table["caption"], PROMPT)))
    prompts, candidates, scores = (rows[name].to_pylist() for name in ("prompt_id", "candidate", "score"))
    return dict(zip(zip(prompts, candidates, strict=True), scores, strict=True))


def scores_metadata(table: pa.Table) -> dict[str, Any]:
    """The provenance that `write_scores` stored."""
    return dict(json.loads((table.schema.metadata or {}).get(b"nbench", b"{}")))
