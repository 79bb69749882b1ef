"""What watching and pruning cost and save: ratios to the plain pipeline, of interleaved runs on this machine.

Each run of the plain pipeline is followed by one under an `AlignmentMonitor` that never prunes, one under a `Pruner`
that keeps all, one Best-of-N that scores at the end, and one for each policy. Medians of the ratios within a round, so
that a machine that other work slows down for a while slows both sides of a ratio; `--cpu-time` does not count what
other processes take. `--prompts` run together, as `best_each` has it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from nbench.builders.pipelines import load_pipeline, resolve_pipeline
from nbench.sampling.bestofn import BestOfN
from nbench.sampling.monitor import AlignmentMonitor
from nbench.sampling.pruning import Pruner
from nbench.sampling.space import space_of
from nbench.scorers.registry import get_scorer

PROMPT = "two red circles above one blue square"
POLICIES = ("20:1", "10:1", "10:3,20:1", "8:2,15:1")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--pipeline", default="shapes")
    arguments.add_argument("--model", default="noisyclip")
    arguments.add_argument("--n", type=int, default=6)
    arguments.add_argument("--steps", type=int, default=50)
    arguments.add_argument("--rounds", type=int, default=9)
    arguments.add_argument("--prompts", type=int, default=1)
    arguments.add_argument("--cpu-time", action="store_true")
    arguments.add_argument("--json", type=Path)
    given = arguments.parse_args()

    clock, prompts = time.process_time if given.cpu_time else time.perf_counter, [PROMPT] * given.prompts
    entry = resolve_pipeline(given.pipeline)
    pipe = load_pipeline(entry, entry.dtype)
    guidance = {} if entry.guidance is None else {"guidance_scale": entry.guidance}
    call = {"num_inference_steps": given.steps, **guidance, **entry.call_kwargs}
    scorer = get_scorer(given.model, space_of(pipe, entry.preview, call))
    what = f"{given.prompts} x {given.n} candidates, {given.steps} steps"
    print(f"{given.pipeline}, {what}, {torch.get_num_threads()} threads")

    def run() -> None:
        generators = [torch.Generator().manual_seed(seed) for seed in range(given.n * given.prompts)]
        pipe(prompts, num_images_per_prompt=given.n, generator=generators, output_type="np", **call)

    scored = () if given.cpu_time else None  # the scorer's seconds are wall clock, not to be taken from CPU time

    def monitored() -> float:
        with AlignmentMonitor(pipe, scorer, prompts, positions=scored, show=False, preview=entry.preview) as monitor:
            run()
        return monitor.scorer_seconds

    def pruner() -> float:
        with Pruner(pipe, given.n * given.prompts):
            run()
        return 0.0

    def best(policy: str) -> float:
        BestOfN(pipe, scorer, given.n, policy, preview=entry.preview).best_each(
            prompts, [str(i) for i in range(given.prompts)], **call
        )
        return 0.0

    ways: dict[str, Callable[[], float]] = {"monitor less its scorer": monitored, "pruner that keeps all": pruner}
    ways |= {f"best of {given.n}, {given.steps}:1": partial(best, f"{given.steps}:1")}
    ways |= {f"best of {given.n}, {policy}": partial(best, policy) for policy in POLICIES}
    ratios: dict[str, list[float]] = {name: [] for name in ways}
    for round in range(given.rounds + 1):
        plain = _seconds(run, clock)
        for name, way in ways.items():
            seconds = _seconds(way, clock)
            if round:  # the first is to warm up
                ratios[name].append(seconds / plain)
    found: dict[str, Any] = {name: statistics.median(values) for name, values in ratios.items()}
    for name, ratio in found.items():
        print(f"{name:32} {ratio:6.3f} of the plain pipeline's time")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


def _seconds(run: Callable[[], float | None], clock: Callable[[], float]) -> float:
    """Seconds of a run, less those (of wall clock) that it says are not to count."""
    start = clock()
    aside = run() or 0.0
    return clock() - start - aside


if __name__ == "__main__":
    main()
