"""Latency and throughput of Best-of-N for prompts that arrive at random: plain, pruned in turn, and by an engine.

The same prompts arrive at the same times for each way. Plain Best-of-N and pruning in turn serve one prompt after the
other. Latency counts from a prompt's arrival, throughput from the first arrival to the last answer. `--endure` then
sends so many requests to an engine, one in forty of which is cancelled and one in forty fails, and counts what is lost.

python perf/engine.py --threads 2 --prompts 50 --json engine.json
python perf/engine.py --prompts 0 --endure 500 --steps 8 --policy 2:1 --n 3
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nbench.pipelines.find import load_pipeline, resolve_pipeline
from nbench.pipelines.latent_space import space_of
from nbench.pipelines.quiet import quieten_diffusers
from nbench.sampling.bestofn import BestOfN
from nbench.sampling.engine import Engine
from nbench.scorers.registry import get_scorer

COLOURS, SHAPES = ("red", "green", "blue", "yellow", "white", "black"), ("circle", "square", "star", "triangle")
PROMPTS = [f"one {a} {b} above two {c} {d}s" for a in COLOURS for b in SHAPES for c in COLOURS[::-1] for d in SHAPES]


@dataclass(frozen=True)
class Timing:
    """Seconds from arrival to answer, images an hour, processor seconds an image, and denoiser calls an image."""

    median: float
    p95: float
    images_per_hour: float
    cpu_seconds: float
    calls: float


def timing(run: Callable[[], list[float]], arrivals: Sequence[float], calls: Callable[[], int]) -> Timing:
    """The timing of a way that returns when each prompt was answered, in seconds after its start."""
    cpu = time.process_time()
    ends = np.array(run())
    latencies, count = ends - np.array(arrivals), len(arrivals)
    return Timing(
        float(statistics.median(latencies)),
        float(np.percentile(latencies, 95)),
        3600 * count / float(ends.max() - arrivals[0]),
        (time.process_time() - cpu) / count,
        calls() / count,
    )


def in_turn(best: BestOfN, prompts: Sequence[str], arrivals: Sequence[float], call: dict[str, Any]) -> Any:
    """One prompt after the other, in the order of arrival; also the number of denoiser calls."""
    calls: list[int] = []

    def run() -> list[float]:
        start, ends = time.perf_counter(), list[float]()
        for prompt, arrival in zip(prompts, arrivals, strict=True):
            time.sleep(max(0.0, start + arrival - time.perf_counter()))
            calls.append(best.best(prompt, **call).denoiser_calls)
            ends.append(time.perf_counter() - start)
        return ends

    return run, lambda: sum(calls)


def by_engine(engine: Engine, prompts: Sequence[str], arrivals: Sequence[float]) -> Any:
    """Submitted on arrival."""
    futures: list[Future[Any]] = []

    def run() -> list[float]:
        start, ends = time.perf_counter(), dict[int, float]()
        for number, (prompt, arrival) in enumerate(zip(prompts, arrivals, strict=True)):
            time.sleep(max(0.0, start + arrival - time.perf_counter()))
            futures.append(engine.submit(prompt))
            futures[-1].add_done_callback(lambda _, number=number: ends.update({number: time.perf_counter() - start}))
        wait(futures)
        return [ends[number] for number in range(len(prompts))]

    return run, lambda: sum(future.result().denoiser_calls for future in futures)


def endure(engine: Engine, count: int, patience: float = 1800) -> dict[str, int]:
    """The outcomes of `count` requests: one in forty is cancelled, most while they run, and one in forty fails.

    Lost are those without an outcome after `patience` seconds.
    """

    def fails(_: Any) -> None:
        raise LookupError("a listener that fails")

    futures = [
        engine.submit(PROMPTS[i % len(PROMPTS)], str(i), progress=fails if i % 40 == 1 else None) for i in range(count)
    ]
    for i in range(0, count, 40):  # when the request before it ends
        futures[max(0, i - 1)].add_done_callback(lambda _, i=i: futures[i].cancel())
    wait(futures, patience)
    cancelled = [future.cancelled() for future in futures]
    ended = [future for future in futures if future.done() and not future.cancelled()]
    failed = sum(future.exception() is not None for future in ended)
    return {
        "answered": len(ended) - failed,
        "cancelled": sum(cancelled),
        "failed": failed,
        "lost": count - len(ended) - sum(cancelled),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--pipeline", default="shapes")
    arguments.add_argument("--model", default="noisyclip")
    arguments.add_argument("--policy", default="10:3,20:1")
    arguments.add_argument("--n", type=int, default=6)
    arguments.add_argument("--steps", type=int, default=50)
    arguments.add_argument("--prompts", type=int, default=50)
    arguments.add_argument("--gap", type=float, help="mean seconds between arrivals; default: a quarter of a plain run")
    arguments.add_argument("--max-batch", type=int, help="candidates at a time in the engine; default: 4 n")
    arguments.add_argument("--threads", type=int)
    arguments.add_argument("--endure", type=int, default=0)
    arguments.add_argument("--json", type=Path)
    options = arguments.parse_args()

    quieten_diffusers()
    if options.threads:
        torch.set_num_threads(options.threads)
    entry = resolve_pipeline(options.pipeline)
    pipe = load_pipeline(entry, entry.dtype)
    guidance = {} if entry.guidance is None else {"guidance_scale": entry.guidance}
    call = {"num_inference_steps": options.steps, **guidance, **entry.call_kwargs}
    scorer = get_scorer(options.model, space_of(pipe, entry.preview, call))

    def engine() -> Engine:
        return Engine(
            pipe,
            scorer,
            options.policy,
            options.n,
            max_batch=options.max_batch,
            queue=max(options.prompts, options.endure),
            preview=entry.preview,
            **call,
        )

    results: dict[str, Any] = {}
    if options.prompts:
        plain = BestOfN(pipe, scorer, options.n, f"{options.steps}:1", preview=entry.preview)
        pruned = BestOfN(pipe, scorer, options.n, options.policy, preview=entry.preview)
        prompts = [PROMPTS[i % len(PROMPTS)] for i in range(options.prompts)]
        pruned.best(prompts[0], **call)  # to warm up
        start = time.perf_counter()
        plain.best(prompts[0], **call)
        gap = options.gap or (time.perf_counter() - start) / 4
        waits = np.random.default_rng(0).exponential(gap, options.prompts)
        arrivals = np.cumsum(waits - waits[0] * (np.arange(options.prompts) == 0)).tolist()
        print(f"{options.pipeline}, {options.policy}, {torch.get_num_threads()} threads, a prompt every {gap:.2f} s")
        results = {
            "plain": timing(*_with(in_turn(plain, prompts, arrivals, call), arrivals)),
            "in turn": timing(*_with(in_turn(pruned, prompts, arrivals, call), arrivals)),
        }
        with engine() as running:
            results["engine"] = timing(*_with(by_engine(running, prompts, arrivals), arrivals))
            stats = running.stats
        for way, each in results.items():
            print(
                f"{way:8} latency {each.median:6.2f} s (p95 {each.p95:6.2f}), {each.images_per_hour:7.0f} images/h, "
                f"{each.cpu_seconds:6.2f} processor seconds and {each.calls:5.1f} calls an image"
            )
        print(f"{stats.calls} calls in {stats.batches} batches of {stats.rows / stats.batches:.1f} rows; {stats.alone}")
        results = {way: asdict(each) for way, each in results.items()} | {"stats": asdict(stats)}
    if options.endure:
        with engine() as running:
            results["endure"] = endure(running, options.endure)
        print(results["endure"])
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


def _with(way: Any, arrivals: Sequence[float]) -> tuple[Any, Sequence[float], Any]:
    run, calls = way
    return run, arrivals, calls


if __name__ == "__main__":
    main()
