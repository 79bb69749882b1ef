"""What watching and pruning cost and save: ratios to the plain pipeline, of interleaved runs on this machine.

An `AlignmentMonitor` that never prunes, a `Pruner` that keeps all, one Best-of-N that scores at the end, and one for
each policy: the runs of each alternate with runs of the plain pipeline, and who goes first alternates too. Medians of
the ratios of neighbours with their 95 % intervals, so that a machine that other work slows down for a while slows both
sides of a ratio; `--cpu-time` does not count what other processes take. `--prompts` run together, as in `best_each`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from nbench.pipelines.find import load_pipeline, resolve_pipeline
from nbench.pipelines.latent_space import space_of
from nbench.pipelines.pruning import Pruner
from nbench.pipelines.quiet import quieten_diffusers
from nbench.sampling.bestofn import BestOfN
from nbench.sampling.monitor import AlignmentMonitor
from nbench.scorers.registry import get_scorer

PROMPT = "two red circles above one blue square"
POLICIES = ("20:1", "10:1", "10:3,20:1", "8:2,15:1")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--pipeline", default="shapes")
    arguments.add_argument("--model", default="noisyclip")
    arguments.add_argument("--n", type=int, default=6)
    arguments.add_argument("--steps", type=int, default=50)
    arguments.add_argument("--rounds", type=int, default=20)
    arguments.add_argument("--prompts", type=int, default=1)
    arguments.add_argument("--only", default="", help="what has this in its name: monitor, pruner, 20:1")
    arguments.add_argument("--cpu-time", action="store_true")
    arguments.add_argument("--json", type=Path)
    given = arguments.parse_args()

    quieten_diffusers()
    clock, prompts = time.process_time if given.cpu_time else time.perf_counter, [PROMPT] * given.prompts
    entry = resolve_pipeline(given.pipeline)
    pipe = load_pipeline(entry, entry.dtype)
    guidance = {} if entry.guidance is None else {"guidance_scale": entry.guidance}
    call = {"num_inference_steps": given.steps, **guidance, **entry.call_kwargs}
    scorer = get_scorer(given.model, space_of(pipe, entry.preview, call))
    what = f"{given.prompts} x {given.n} candidates, {given.steps} steps"
    print(f"{given.pipeline}, {what}, {torch.get_num_threads()} threads, {given.rounds} rounds")

    def run() -> None:
        generators = [torch.Generator().manual_seed(seed) for seed in range(given.n * given.prompts)]
        pipe(prompts, num_images_per_prompt=given.n, generator=generators, output_type="np", **call)

    scored = () if given.cpu_time else None  # the scorer's seconds are wall clock, not to be taken from CPU time

    def monitored() -> float:
        with AlignmentMonitor(pipe, scorer, prompts, positions=scored, show=False, preview=entry.preview) as monitor:
            run()
        return monitor.scorer_seconds

    def pruner() -> None:
        with Pruner(pipe, given.n * given.prompts, call):
            run()

    def best(policy: str) -> None:
        ids = [str(i) for i in range(given.prompts)]
        BestOfN(pipe, scorer, given.n, policy, preview=entry.preview).best_each(prompts, ids, **call)

    ways: dict[str, Callable[[], float | None]] = {
        "monitor less its scorer": monitored,
        "pruner that keeps all": pruner,
    }
    ways |= {f"best of {given.n}, {policy}": partial(best, policy) for policy in (f"{given.steps}:1", *POLICIES)}
    found = {}
    for name, way in ways.items():
        if given.only in name:
            _seconds(run, clock), _seconds(way, clock)  # to warm up
            found[name] = median([_ratio(way, run, clock, bool(turn % 2)) for turn in range(given.rounds)])
    for name, (middle, low, high) in found.items():
        print(f"{name:32} {middle:6.3f} ({low:.3f} to {high:.3f}) of the plain pipeline's time")
    if given.json:
        named = {name: dict(zip(("median", "low", "high"), values, strict=True)) for name, values in found.items()}
        given.json.write_text(json.dumps(named, indent=1) + "\n")


def median(values: list[float]) -> tuple[float, float, float]:
    """The median, and its 95 % interval: the values between which it lies whatever their distribution."""
    ordered, half = sorted(values), 0.98 * len(values) ** 0.5  # ranks, by the normal limit of the binomial
    low, high = max(0, int(len(values) / 2 - half)), min(len(values) - 1, int(len(values) / 2 + half))
    return statistics.median(values), ordered[low], ordered[high]


def _ratio(
    way: Callable[[], float | None], plain: Callable[[], float | None], clock: Callable[[], float], turned: bool
) -> float:
    """Seconds of a run over those of a plain one right before it; `turned`: right after it."""
    first, second = (_seconds(each, clock) for each in ((way, plain) if turned else (plain, way)))
    return first / second if turned else second / first


def _seconds(run: Callable[[], float | None], clock: Callable[[], float]) -> float:
    """Seconds of a run, less those (of wall clock) that it says are not to count."""
    start = clock()
    aside = run() or 0.0
    return clock() - start - aside


if __name__ == "__main__":
    main()
