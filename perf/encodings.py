"""Bytes per number of latents in Parquet, by encoding, and who reads them.

python perf/encodings.py [DATA-SET [latent|x0]]; without one, latents like those of SDXL
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nbench.perf.formats import trajectories
from nbench.shards.reader import open_bench

ENCODINGS = (
    ("float16", "BYTE_STREAM_SPLIT"),
    ("float32", "BYTE_STREAM_SPLIT"),
    ("float16", "PLAIN"),
    ("int8", "PLAIN"),
    ("int8", "DICTIONARY"),
    ("int8", "DELTA_BINARY_PACKED"),
    ("int8", "BYTE_STREAM_SPLIT"),
)
POSITIONS = (0, 10, 20, 30, 40, 49)
ROWS = 600


def latents_of(where: str | None, signal: str) -> np.ndarray:
    """float16 [N, P, C, H, W]."""
    if where is None:
        return trajectories(4, 128)[:, list(POSITIONS)]
    batch = next(open_bench(where).batches(POSITIONS, ROWS, signals=(signal,)))
    return np.stack(list((batch.latents or batch.x0).values()), 1)


def main(where: str | None = None, signal: str = "latent") -> None:
    """Write each encoding, measure and print."""
    latents = latents_of(where, signal)
    float32 = latents.astype(np.float32)
    scale = np.abs(float32).max((3, 4), keepdims=True) / 127
    int8 = np.rint(float32 / np.where(scale > 0, scale, 1)).astype(np.int8)
    for dtype, encoding in ENCODINGS:
        values = {"float16": latents, "float32": float32, "int8": int8}[dtype]
        lists = (
            pa.FixedSizeListArray.from_arrays(pa.array(each.ravel()), each[0].size) for each in values.swapaxes(0, 1)
        )
        table = pa.table(dict(zip(map(str, POSITIONS), lists, strict=True)))
        elements = [f"{name}.list.element" for name in table.column_names]
        named = encoding != "DICTIONARY"
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "latents.parquet"
            pq.write_table(
                table,
                path,
                compression="zstd",
                use_dictionary=False if named else elements,
                column_encoding=dict.fromkeys(elements, encoding) if named else None,
                write_statistics=False,
            )
            try:
                duckdb.sql(f"SELECT * FROM '{path}'").fetchall()
                reader = "DuckDB reads it"
            except duckdb.Error as error:
                reader = str(error).splitlines()[0]
            print(
                f"{dtype:8} {encoding:20} {path.stat().st_size / latents.size:.3f} bytes per number  {reader}",
                flush=True,
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
