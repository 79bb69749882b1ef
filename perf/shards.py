"""nbench's shards beside other storage layouts of trajectories: bytes, time to write and read, peak memory.

python perf/shards.py [--rows 8] [--rounds 5] [--size 128] [--json perf.json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from formats import LAYOUTS, STEPS, Layout, trajectories, write_nbench

TWO = (20, 30)
ALL = tuple(range(STEPS + 1))
TIMES = ("write", "read all", "read 2 of 51")
PEAK = """
import sys
sys.path.insert(0, {here!r})
from pathlib import Path
from formats import read_nbench
for array in read_nbench(Path({folder!r}), range(51)):
    pass
# not getrusage: its peak starts from that of the parent process
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def bytes_read() -> int:
    """Bytes that this process has read so far, from files or their cache."""
    return int(Path("/proc/self/io").read_text().split()[1])


def measure(layout: Layout, latents: np.ndarray) -> dict[str, float]:
    """Seconds and bytes of one layout, once, in a new folder; every read must yield all requested numbers."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        start = time.perf_counter()
        layout.write(folder, latents)
        figures = {"write": time.perf_counter() - start}
        # otherwise pending writes would slow down the reader
        os.sync()
        figures["bytes"] = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        for name, positions in (("read all", ALL), ("read 2 of 51", TWO)):
            before, start = bytes_read(), time.perf_counter()
            size = sum(array.size for array in layout.read(folder, positions))
            figures[name] = time.perf_counter() - start
            figures[f"bytes to {name}"] = bytes_read() - before
            if size != latents[:, positions].size:
                raise RuntimeError(f"{layout.name} gave {size} numbers, not {latents[:, positions].size}")
    return figures


def compare(layouts: Sequence[Layout], latents: np.ndarray, rounds: int) -> dict[str, list[dict[str, float]]]:
    """All layouts in every round, each round starting with another; one uncounted round warms up."""
    rounds_of: dict[str, list[dict[str, float]]] = {layout.name: [] for layout in layouts}
    for layout in layouts:
        measure(layout, latents[:1])
    for number in range(rounds):
        first = number % len(layouts)
        for layout in [*layouts[first:], *layouts[:first]]:
            rounds_of[layout.name].append(measure(layout, latents))
    return rounds_of


def peaks(latents: np.ndarray) -> dict[str, dict[str, int]]:
    """Peak memory, in KiB, of processes that read a whole data set, and one ten times as large."""
    peaks_of: dict[str, dict[str, int]] = {}
    for form in ("parquet", "webdataset"):
        peaks_of[form] = {}
        for shards in (1, 10):
            with tempfile.TemporaryDirectory() as folder:
                write_nbench(Path(folder), latents, form, shards)
                program = PEAK.format(here=str(Path(__file__).parent), folder=folder)
                peaks_of[form][f"{shards}x"] = int(subprocess.check_output([sys.executable, "-c", program]))
    return peaks_of


def ratios(rounds: dict[str, list[dict[str, float]]], name: str, key: str) -> tuple[float, float, float]:
    """Median, minimum and maximum over the rounds: a layout's figure / the first layout's of the same round."""
    base = rounds[LAYOUTS[0].name]
    each = [mine[key] / theirs[key] for mine, theirs in zip(rounds[name], base, strict=True)]
    return median(each), min(each), max(each)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(row, widths, strict=True)) for row in (heads, *rows))
    )
    return "\n".join(line.rstrip() for line in lines)


def report(rounds: dict[str, list[dict[str, float]]], peak: dict[str, dict[str, int]], latents: np.ndarray) -> str:
    """Ratios first, which should be similar on other machines; then the figures of this machine."""
    uncounted = {layout.name for layout in LAYOUTS if layout.mapped}
    compared = []
    for name in rounds:
        cells = [name]
        for key in ("bytes", *TIMES, "bytes to read 2 of 51"):
            middle, low, high = ratios(rounds, name, key)
            cells.append(f"{middle:.2f}" if low == high else f"{middle:.2f} ({low:.2f}-{high:.2f})")
        compared.append([*cells[:-1], "uncounted"] if name in uncounted else cells)
    raw = latents[:1].nbytes
    rates = []
    for name, runs in rounds.items():
        sizes = {"write": latents.nbytes, "read all": latents.nbytes, "read 2 of 51": latents[:, TWO].nbytes}
        speeds = [f"{median(sizes[key] / run[key] for run in runs) / 1e6:,.0f}" for key in TIMES]
        rates.append([name, f"{median(run['bytes'] for run in runs) / len(latents):,.0f}", *speeds])
    memory = [
        f"{form}: {sizes['10x'] / sizes['1x']:.2f} times as much for 10 times the data ({sizes['10x'] / 1024:,.0f} MiB)"
        for form, sizes in peak.items()
    ]
    return "\n".join(
        [
            f"{len(latents)} trajectories of {' x '.join(map(str, latents.shape[1:]))} float16, {raw:,} bytes each; "
            f"median of {len(next(iter(rounds.values())))} rounds (minimum-maximum)",
            "",
            f"Bytes and times as multiples of {LAYOUTS[0].name}'s, in the same round: above 1 is larger or slower",
            table(("", "bytes", *TIMES, "bytes for 2"), compared),
            "",
            "Peak memory while reading everything",
            *memory,
            "",
            "This machine: bytes per trajectory, and MB/s of float16 latents, not doubled (files in the page cache; "
            "only nbench waits for the disk)",
            table(("", "bytes", *TIMES), rates),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8, help="trajectories (8)")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each layout (5)")
    parser.add_argument("--size", type=int, default=128, help="height and width of a latent (128, as SDXL's)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all single measurements there too")
    options = parser.parse_args()
    if options.rows < 1 or options.rounds < 1 or options.size < 8:
        parser.error("--rows and --rounds must be 1 or more, --size 8 or more")
    # keep the network and progress bars out of the timings
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}

    layouts = [layout for layout in LAYOUTS if not layout.missing]
    for layout in LAYOUTS:
        if layout.missing:
            print(f"{layout.name}: skipped, because the package {layout.needs} is not installed", file=sys.stderr)
    latents = trajectories(options.rows, options.size)
    rounds, peak = compare(layouts, latents, options.rounds), peaks(latents)
    print(report(rounds, peak, latents))
    if options.json:
        machine = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
        content: dict[str, Any] = {"shape": latents.shape, "machine": machine, "rounds": rounds, "peak_kib": peak}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
