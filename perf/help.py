"""Time of `nbench --help` and of a command's help, beside the parts that they cannot do without.

python perf/help.py [--times 9]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys

COMMANDS = {
    "python": ["-c", "pass"],
    "typer and rich": ["-c", "import typer.rich_utils"],
    "nbench --help": ["-m", "nbench", "--help"],
    "nbench build ncc --help": ["-m", "nbench", "build", "ncc", "--help"],
}


def seconds(arguments: list[str]) -> float:
    """Processor seconds of one run, for the machine may be busy."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=9, help="runs of each, in turn; the median is shown")
    times = parser.parse_args().times
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(times):
        for name, arguments in COMMANDS.items():
            taken[name].append(seconds(arguments))
    python = statistics.median(taken["python"])
    for name, values in taken.items():
        print(f"{name:24}{statistics.median(values):6.2f} s{statistics.median(values) / python:7.1f} x python")


if __name__ == "__main__":
    main()
