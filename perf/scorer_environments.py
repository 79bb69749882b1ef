"""Milliseconds per image of each way to run a scorer, beside the same scorer in this process.

python perf/scorer_environments.py [--rows 32] [--repeats 9] [--sizes 512,1024] [--uv] [--json ways.json]

The scorer reads each pixel once and does no more, so what is measured is the way to it; images are float32. Ways take
turns, and the fastest of the repeats counts, because other load only slows them. PNG files, and a process that reads
them, are what packages are usually given.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from nbench.scorers.check import WORLD
from nbench.scorers.registry import get_scorer

SCORER = """
# /// script
# dependencies = ["numpy"]
# ///
class Mine:
    name, reads, fingerprint, arrays = "mine", "image", "1", "numpy"

    def score(self, inputs, prompts):
        return inputs.mean((1, 2, 3))
"""
"""Reads each pixel once."""
READER = """
import sys
import numpy as np
from PIL import Image

for line in sys.stdin:
    print(np.asarray(Image.open(line.strip())).mean(), flush=True)
"""
"""Reads the names of PNG files and answers with their means."""


class Files:
    """A scorer in another process that is given PNG files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._reader = subprocess.Popen(
            [sys.executable, "-c", READER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def score(self, inputs: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        """The mean of each image."""
        assert self._reader.stdin is not None
        assert self._reader.stdout is not None
        means = []
        for number, pixels in enumerate((inputs * 255).round().byte().permute(0, 2, 3, 1).numpy()):
            path = self._folder / f"{number}.png"
            Image.fromarray(pixels).save(path)
            self._reader.stdin.write(f"{path}\n")
            self._reader.stdin.flush()
            means.append(float(self._reader.stdout.readline()))
        return torch.tensor(means)

    def close(self) -> None:
        """End the process."""
        self._reader.terminate()
        self._reader.wait()


def ways(folder: Path, with_uv: bool) -> tuple[dict[str, Any], Callable[[], None]]:
    """By name, the same scorer in each way; and what ends them."""
    mine = folder / "mine.py"
    mine.write_text(SCORER)
    names = {"in this process": f"{mine}:Mine", "python:": f"python:{sys.executable}:{mine}:Mine"}
    names |= {"uv:": f"uv:{mine}:Mine"} if with_uv else {}
    # a server in a process of its own, as it would be
    command = [sys.executable, "-m", "nbench", "serve-scorer", f"{mine}:Mine", "--port", "0"]
    served = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert served.stdout is not None
    names["http:"] = served.stdout.readline().split()[-1]
    scorers: dict[str, Any] = {way: get_scorer(name, WORLD) for way, name in names.items()}
    scorers["PNG files"] = files = Files(folder)

    def end() -> None:
        files.close()
        served.terminate()
        served.wait()

    return scorers, end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--sizes", default="512,1024")
    parser.add_argument("--uv", action="store_true", help="also uv:, which installs numpy into an environment")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        scorers, end = ways(Path(folder), options.uv)
        for size in map(int, options.sizes.split(",")):
            noise = np.random.default_rng(0).integers(0, 256, (options.rows, size, size, 3), np.uint8)
            images, prompts = torch.from_numpy(noise).permute(0, 3, 1, 2).float() / 255, ["a dog"] * options.rows
            seconds: dict[str, list[float]] = {way: [] for way in scorers}
            for repeat in range(options.repeats + 1):
                for way, scorer in scorers.items():
                    few = 4 if way == "PNG files" else options.rows
                    start = time.perf_counter()
                    scorer.score(images[:few], prompts[:few])
                    if repeat:  # the first pass touches the memory
                        seconds[way].append((time.perf_counter() - start) / few)
            base = min(seconds["in this process"])
            print(f"{size} x {size}: milliseconds per image (beyond this process)")
            for way, values in seconds.items():
                ms, own = 1e3 * min(values), 1e3 * base
                print(f"  {way:16} {ms:8.2f} ({ms - own:+.2f}, {ms / own:.1f} times)")
                rows.append({"size": size, "way": way, "ms": ms, "ratio": ms / own})
        end()
    if options.json:
        options.json.write_text(json.dumps({"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
