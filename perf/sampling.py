"""The cost and savings of monitoring and pruning: time ratios to the plain pipeline, in interleaved runs.

Compared: an `AlignmentMonitor` that never prunes, a `Pruner` that keeps all candidates, a Best-of-N that scores at the
end, and a Best-of-N per policy. Runs of each alternate with runs of the plain pipeline, in alternating order. Shown are
medians of the ratios of neighbouring runs with 95 % intervals, so that other load on the machine slows both sides of a
ratio; `--cpu-time` excludes other processes. `--prompts` run together, as in `best_each`.
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
    arguments.add_argument("--only", default="", help="only what contains this in its name: monitor, pruner, 20:1")
    arguments.add_argument("--cpu-time", action="store_true")
    arguments.add_argument("--json", type=Path)
    options = arguments.parse_args()

    quieten_diffusers()
    clock, prompts = time.process_time if options.cpu_time else time.perf_counter, [PROMPT] * options.prompts
    entry = resolve_pipeline(options.pipeline)
    pipe = load_pipeline(entry, entry.dtype)
    guidance = {} if entry.guidance is None else {"guidance_scale": entry.guidance}
    call = {"num_inference_steps": options.steps, **guidance, **entry.call_kwargs}
    scorer = get_scorer(options.model, space_of(pipe, entry.preview, call))
    what = f"{options.prompts} x {options.n} candidates, {options.steps} steps"
    print(f"{options.pipeline}, {what}, {torch.get_num_threads()} threads, {options.rounds} rounds")

    def run() -> None:
        generators = [torch.Generator().manual_seed(seed) for seed in range(options.n * options.prompts)]
        pipe(prompts, num_images_per_prompt=options.n, generator=generators, output_type="np", **call)

    scored = (
        () if options.cpu_time else None
    )  # the scorer's seconds are wall clock, which must not be subtracted from CPU time

    def monitored() -> float:
        with AlignmentMonitor(pipe, scorer, prompts, positions=scored, show=False, preview=entry.preview) as monitor:
            run()
        return monitor.scorer_seconds

    def pruner() -> None:
        with Pruner(pipe, options.n * options.prompts, call):
            run()

    def best(policy: str) -> None:
        ids = [str(i) for i in range(options.prompts)]
        BestOfN(pipe, scorer, options.n, policy, preview=entry.preview).best_each(prompts, ids, **call)

    ways: dict[str, Callable[[], float | None]] = {
        "monitor less its scorer": monitored,
        "pruner that keeps all": pruner,
    }
    ways |= {f"best of {options.n}, {policy}": partial(best, policy) for policy in (f"{options.steps}:1", *POLICIES)}
    ratios = {}
    for name, way in ways.items():
        if options.only in name:
            _seconds(run, clock), _seconds(way, clock)  # to warm up
            ratios[name] = median([_ratio(way, run, clock, bool(turn % 2)) for turn in range(options.rounds)])
    for name, (middle, low, high) in ratios.items():
        print(f"{name:32} {middle:6.3f} ({low:.3f} to {high:.3f}) of the plain pipeline's time")
    if options.json:
        intervals = {name: dict(zip(("median", "low", "high"), values, strict=True)) for name, values in ratios.items()}
        options.json.write_text(json.dumps(intervals, indent=1) + "\n")


def median(values: list[float]) -> tuple[float, float, float]:
    """The median and its distribution-free 95 % interval."""
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
    """Seconds of a run, minus the wall-clock seconds that it returns to be excluded."""
    start = clock()
    aside = run() or 0.0
    return clock() - start - aside


if __name__ == "__main__":
    main()
