"""The error of int8 latents by position, and its effect on each scorer's agreement with the references.

python perf/int8.py data/noisy-genai-bench
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from nbench.benchmarks.evaluate import evaluate
from nbench.benchmarks.evaluate_config import EvaluateConfig
from nbench.shards.convert import convert
from nbench.shards.convert_config import ConvertConfig
from nbench.shards.reader import Bench, open_bench

MODELS = ("clip", "noisyclip")


def relative_error(bench: Bench, small: Bench, position: int) -> float:
    """Root mean squared error of int8 latents relative to the root mean square of the latents."""
    error = size = 0.0
    for ours, theirs in zip(bench.batches([position]), small.batches([position]), strict=True):
        was, now = (batch.latents[position].astype(np.float64) for batch in (ours, theirs))
        error, size = error + np.square(was - now).sum(), size + np.square(was).sum()
    return float(np.sqrt(error / size))


def main(path: str) -> None:
    """Convert, compare and print."""
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "int8"
        convert(ConvertConfig(path, str(small), latent_dtype="int8"))
        benches = [open_bench(path), open_bench(small)]
        size, small_size = (sum(record.bytes for record in bench.info.shards if record) for bench in benches)
        print(f"bytes: {size:,} as {benches[0].info.latent_dtype}, {small_size:,} as int8 ({small_size / size:.3f})")
        tables = [
            {
                (row.model, row.position, row.reference): row.spearman
                for row in evaluate(EvaluateConfig(where, MODELS, "all", Path(folder) / str(number))).rows
            }
            for number, where in enumerate((path, small))
        ]
        print("position  error  " + "  ".join(f"{model}/{reference}" for model, _, reference in _columns(tables[0])))
        for position in benches[0].info.stored:
            changes = [
                (tables[1][model, position, reference] or 0) - (tables[0][model, position, reference] or 0)
                for model, _, reference in _columns(tables[0])
            ]
            cells = "  ".join(f"{change:+.4f}" for change in changes)
            print(f"{position:8d}  {relative_error(*benches, position):.4f}  {cells}")


def _columns(table: dict[tuple[str, int, str], float | None]) -> list[tuple[str, int, str]]:
    first = min(position for _, position, _ in table)
    return [key for key in table if key[1] == first]


if __name__ == "__main__":
    main(sys.argv[1])
