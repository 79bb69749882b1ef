"""Recovered gain and cost in seconds of Best-of-N with pruning: live runs beside full Best-of-N on this machine.

For each batch of prompts of a bench: the stock pipeline generates all candidates and CLIP scores the finished images
(full Best-of-N), then each policy runs live with the same seeds. The selected candidates are judged by the bench's
references, beside a random pick and the oracle. If `--results` has the score tables of `nbench evaluate`, replaying
them must predict what each policy selects.

python perf/best_of_n.py data/bench --policy noisyclip@20:1 --policy x0-image@5:3,9:1 --policy cfg-gap@20:1
    --policy clip@20:1 --policy random@20:1 --results results --markdown
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL.Image import Image

from nbench.benchmarks.metrics import Array, statistics
from nbench.benchmarks.metrics.model_figures import YARDSTICK
from nbench.benchmarks.results.result_file import result_path
from nbench.benchmarks.score_tables.bench import final_references, of_bench
from nbench.benchmarks.score_tables.layout import Layout, of_prompts
from nbench.builders.spec import call_arguments, maker_of
from nbench.errors import NbenchError
from nbench.pipelines.find import load_pipeline
from nbench.pipelines.latent_layout import float32_noise
from nbench.pipelines.options import as_called
from nbench.pipelines.quiet import quieten_diffusers
from nbench.pipelines.schedulers import swapped
from nbench.sampling.bestofn import BestOfN
from nbench.sampling.engine import Engine
from nbench.sampling.live_scorer import LiveScorer
from nbench.sampling.offline.replay import foretold
from nbench.sampling.policy import parse_policy
from nbench.scorers.apply import Rows
from nbench.scorers.protocols import Scorer
from nbench.scorers.registry import get_scorer
from nbench.shards.reader import Bench, BenchPrompt, open_bench
from nbench.shards.scores import PROMPT, read_scores, scores_metadata
from nbench.shards.seeds import candidate_seed

FULL = "full"


@dataclass
class Tally:
    """One selection method: seconds of each batch, denoiser calls, and the selected candidate of each prompt; `count`:
    candidates of plain Best-of-n; `judged`: scores of the selected images by reference, where no seed makes them."""

    seconds: list[float] = field(default_factory=list)
    calls: int = 0
    chosen: list[int] = field(default_factory=list)
    count: int = 0
    judged: dict[str, list[float]] = field(default_factory=dict)


def opened(bench: Bench) -> tuple[Any, dict[str, Any]]:
    """The bench's own pipeline, and the arguments it was called with."""
    spec = bench.info.spec
    return load_pipeline(maker_of(spec), spec["dtype"]), call_arguments(spec)


def ways_of(bench: Bench, pipe: Any, names: Sequence[str], scheduler: str | None = None) -> dict[str, BestOfN]:
    """Best-of-N by each SCORER@POLICY; each scorer is loaded once. `scheduler`: of policies that resample."""
    info, scorers = bench.info, dict[str, Scorer]()
    other = pipe if scheduler is None else type(pipe)(**{**pipe.components, "scheduler": swapped(pipe, scheduler)})
    other.set_progress_bar_config(disable=True)
    ways = {}
    for name in names:
        scorer, _, policy = name.rpartition("@")
        if scorer not in scorers:
            scorers[scorer] = get_scorer(scorer, info)
        own = other if parse_policy(policy).branches else pipe
        way = BestOfN(own, scorers[scorer], info.candidates, policy, seed=info.spec["seed"], preview=info.preview)
        ways[name] = way
    return ways


def plain_name(count: int) -> str:
    """The row of plain Best-of-`count`."""
    return f"plain best of {count}"


def run(
    bench: Bench,
    pipe: Any,
    call: dict[str, Any],
    ways: dict[str, BestOfN],
    prompts: Sequence[BenchPrompt],
    at_once: int,
    clock: Callable[[], float] = time.perf_counter,
    engine: int | None = None,
    plain: Sequence[int] = (),
) -> dict[str, Tally]:
    """All methods, batch by batch; the first batch runs twice, once to warm up.

    engine: `max_batch` of an engine that runs the prompts of a batch; it is opened once if there is one policy, as
    several cannot share a denoiser. plain: numbers of candidates of plain Best-of-n beside the full number.
    """
    info, clip = bench.info, get_scorer("image:clip", bench.info)
    counts = {FULL: info.candidates} | {plain_name(count): count for count in plain}
    tallies = {name: Tally(count=counts.get(name, 0)) for name in (*counts, *ways)}
    batches = [prompts[i : i + at_once] for i in range(0, len(prompts), at_once)]

    def full(texts: list[str], seeds: list[list[int]], count: int) -> tuple[int, list[int]]:
        generators = [torch.Generator().manual_seed(seed) for row in seeds for seed in row[:count]]
        arguments = {**call, "num_images_per_prompt": count, "generator": generators, "output_type": "pt"}
        with float32_noise(pipe):
            images = pipe(texts, **as_called(pipe, arguments, len(texts))).images
        repeated = [text for text in texts for _ in range(count)]
        scores = (clip.embed_text(repeated) * clip.embed_inputs(images.float())).sum(-1)  # type: ignore[attr-defined]
        return info.steps * len(repeated), scores.view(len(texts), -1).argmax(1).tolist()

    def opened_engine(way: BestOfN) -> Engine:
        settings = {"seed": way.seed, "preview": info.preview, "max_batch": engine, **call}
        return Engine(way.pipe, way.scorer, way.policy, way.n, **settings)

    single = opened_engine(*ways.values()) if engine and len(ways) == 1 else None

    def live(way: BestOfN, texts: list[str], ids: list[str], seeds: list[list[int]]) -> tuple[int, list[int], Any]:
        if engine is None:
            selected = way.best_each(texts, ids, **call)
        else:
            with contextlib.nullcontext(single) if single else opened_engine(way) as running:
                selected = list(running.map(texts, ids))
        chosen = [row.index(result.seeds[0]) for row, result in zip(seeds, selected, strict=True)]
        pictures = [result.images[0] for result in selected] if way.policy.branches else None
        return sum(result.denoiser_calls for result in selected), chosen, pictures

    for number, batch in enumerate([batches[0], *batches]):
        texts, ids = [prompt.prompt for prompt in batch], [prompt.prompt_id for prompt in batch]
        seeds = [[candidate_seed(info.spec["seed"], name, i) for i in range(info.candidates)] for name in ids]
        for name, tally in tallies.items():
            start, pictures = clock(), None
            if name in counts:
                calls, chosen = full(texts, seeds, counts[name])
            else:
                calls, chosen, pictures = live(ways[name], texts, ids, seeds)
            if number:
                tally.seconds.append(clock() - start)
                tally.calls += calls
                tally.chosen += chosen
                if pictures is not None:
                    judge(bench, pictures, texts, tally.judged)
        if number:
            print(f"{min(number * at_once, len(prompts))}/{len(prompts)}", flush=True)
    if single is not None:
        single.close()
    return tallies


def judge(bench: Bench, pictures: Sequence[Image], texts: list[str], judged: dict[str, list[float]]) -> None:
    """Add the scores of images by each reference of the bench."""
    pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2) / 255
    for label in bench.references:
        live = LiveScorer(get_scorer("image:clip" if label == YARDSTICK else label, bench.info), bench.info.preview)
        rows = Rows(texts, [0] * len(texts), {PROMPT: texts})
        judged.setdefault(label, []).extend(live.score(rows, bench.info.positions[-1], pixels))


def predicted(bench: Bench, way: BestOfN, results: Path, ids: pa.Array) -> list[int] | None:
    """The candidates that `way` selects by recorded scores; None if they were not recorded.

    Raises:
        NbenchError: the scores are of another build or another scorer.
    """
    assert not isinstance(way.scorer, str)
    if way.policy.branches:
        return None
    path = result_path(results, bench.name, way.scorer.name, ".parquet")
    if not path.is_file():
        return None
    table = read_scores(path)
    origin = scores_metadata(table)
    run_of_scores = (origin.get("bench_fingerprint"), origin.get("scorer_fingerprint"))
    if run_of_scores != (bench.info.fingerprint, way.scorer.fingerprint):
        raise NbenchError(f"{path} is of another build or scorer: run nbench evaluate again")
    layout = Layout.of_bench(ids, bench.info.candidates)
    scores = of_prompts(of_bench(table, bench, str(path), "run nbench evaluate again"), layout)
    try:
        return foretold(scores, way.policy, way.n, bench.info.steps)[0]
    except KeyError:
        return None


def report(
    tallies: dict[str, Tally],
    references: dict[str, Array],
    ways: dict[str, BestOfN],
    replays: dict[str, list[int] | None],
) -> list[dict[str, Any]]:
    """One row per method: its seconds and calls relative to full Best-of-N, recovered gain by reference with its
    interval, and how many of its selections replay predicted. Bounds: a random pick and the oracle."""
    full = tallies[FULL]
    count = len(full.chosen)
    references = {label: reference[:count] for label, reference in references.items()}
    candidates = next(iter(references.values())).shape[1]
    rows = []
    for name, tally in tallies.items():
        replay = replays.get(name)
        rows.append(
            {
                "way": name.rpartition("@")[0] or name,
                "policy": str(ways[name].policy) if name in ways else "",
                "n": ways[name].policy.of(candidates) if name in ways else tally.count or candidates,
                "seconds": sum(tally.seconds) / sum(full.seconds),
                "calls": tally.calls / full.calls,
                "gains": _gains(references, lambda _, picked=tally.chosen: picked, tally.judged),  # type: ignore[misc]
                "as_replayed": None if replay is None else int((np.array(replay) == tally.chosen).sum()),
                "prompts": count,
            }
        )
    bounds: dict[str, tuple[float, Callable[[Array], Sequence[int] | None]]] = {
        "random pick": (1 / candidates, lambda _: None),
        "oracle": (1.0, lambda reference: reference.argmax(1)),
    }
    for name, (calls, choose) in bounds.items():
        gains = _gains(references, choose)
        rows.append(
            {
                "way": name,
                "policy": "",
                "seconds": None,
                "calls": calls,
                "gains": gains,
                "as_replayed": None,
                "n": candidates,
            }
        )
    return rows


def _gains(
    references: dict[str, Array],
    choose: Callable[[Array], Sequence[int] | None],
    judged: dict[str, list[float]] | None = None,
) -> dict[str, dict[str, Any]]:
    """Recovered gain by reference of the chosen candidates, or of the images that were `judged`; `choose` returns None
    for a random pick."""
    final, gain_of = references[YARDSTICK].argmax(1), {}
    for label, reference in references.items():
        prompts, chosen = np.arange(len(reference)), choose(reference)
        random = reference.mean(1)
        picked = random if chosen is None else reference[prompts, chosen]
        if judged:
            picked = np.array(judged[label])
        columns = np.stack([picked, random, reference[prompts, final]], 1)
        draws = np.vstack([columns.mean(0), statistics.bootstrap_means(columns)])
        gains = (draws[:, 0] - draws[:, 1]) / (draws[:, 2] - draws[:, 1])
        low, high = statistics.percentiles(gains[1:])
        gain_of[label] = {"value": gains[0], "low": float(low), "high": float(high), "mean": draws[0, 0]}
    return gain_of


def table(rows: list[dict[str, Any]], markdown: bool) -> str:
    """The rows as text, or as Markdown for the documentation."""
    labels = list(rows[0]["gains"])
    cells = [["scorer", "policy", "n", "seconds", "calls", *(f"gain by {label}" for label in labels), "as replayed"]]
    for row in rows:
        gains = [f"{gain['value']:.2f} ({gain['low']:.2f} to {gain['high']:.2f})" for gain in row["gains"].values()]
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.3f}"
        replayed = "" if row["as_replayed"] is None else f"{row['as_replayed']}/{row['prompts']}"
        cells.append([row["way"], row["policy"], str(row["n"]), seconds, f"{row['calls']:.3f}", *gains, replayed])
    if markdown:
        lines = [f"| {' | '.join(line)} |" for line in cells]
        return "\n".join([lines[0], "|---" * len(cells[0]) + "|", *lines[1:]])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", type=Path)
    parser.add_argument("--policy", action="append", required=True, help="SCORER@POLICY")
    parser.add_argument(
        "--plain", type=int, action="append", default=[], help="also plain Best-of-N of so many by CLIP"
    )
    parser.add_argument("--scheduler", help="of policies that resample, as FlowMatchLCM")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=20, help="prompts per batch (20)")
    parser.add_argument("--engine", type=int, help="run each batch of prompts in an engine of so many candidates")
    parser.add_argument("--threads", type=int, help="threads of PyTorch")
    parser.add_argument("--cpu-time", action="store_true", help="processor seconds, without those of other processes")
    parser.add_argument("--results", type=Path, help="results folder of nbench evaluate, to replay its scores")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    quieten_diffusers()
    if options.threads:
        torch.set_num_threads(options.threads)
    bench = open_bench(options.bench)
    prompts = bench.prompts[: options.prompts]
    ids = pa.array([prompt.prompt_id for prompt in prompts])
    pipe, call = opened(bench)
    ways = ways_of(bench, pipe, options.policy, options.scheduler)
    replays = (
        {name: predicted(bench, way, options.results, ids) for name, way in ways.items()} if options.results else {}
    )
    clock = time.process_time if options.cpu_time else time.perf_counter
    tallies = run(bench, pipe, call, ways, prompts, options.at_once, clock, options.engine, options.plain)
    rows = report(tallies, final_references(bench, Layout.of_bench(ids, bench.info.candidates)), ways, replays)
    print(table(rows, options.markdown))
    if options.json:
        chosen = {name: {"chosen": tally.chosen, "seconds": tally.seconds} for name, tally in tallies.items()}
        options.json.write_text(json.dumps({"rows": rows, "ways": chosen, "replayed": replays}) + "\n")


if __name__ == "__main__":
    main()
