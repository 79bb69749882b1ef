"""What Best-of-N with pruning keeps, and what it costs in seconds: live runs beside full Best-of-N on this machine.

For every batch of prompts of a bench, one after the other: the stock pipeline makes all candidates and CLIP scores the
finished images (full Best-of-N), then each policy runs live with the same seeds. What a policy selects is judged by the
bench's references of those very candidates, beside a random pick and the reference's own best. Where `--results` has
the score tables that `nbench evaluate` wrote, replaying them must foretell what each policy selects.

python perf/best_of_n.py data/bench --policy noisyclip@20:1 --policy x0-image@5:3,9:1 --policy cfg-gap@20:1
    --policy clip@20:1 --policy random@20:1 --results results --markdown
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

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
from nbench.sampling.bestofn import BestOfN
from nbench.sampling.offline.replay import selections
from nbench.scorers.protocols import Scorer
from nbench.scorers.registry import get_scorer
from nbench.shards.reader import Bench, BenchPrompt, open_bench
from nbench.shards.scores import read_scores, scores_metadata
from nbench.shards.seeds import candidate_seed

FULL = "full"


@dataclass
class Tally:
    """Of one way to choose: seconds of each batch, denoiser calls, and the candidates it chose, a prompt each."""

    seconds: list[float] = field(default_factory=list)
    calls: int = 0
    chosen: list[int] = field(default_factory=list)


def opened(bench: Bench) -> tuple[Any, dict[str, Any]]:
    """The bench's own pipeline, and what it was called with."""
    spec = bench.info.spec
    return load_pipeline(maker_of(spec), spec["dtype"]), call_arguments(spec)


def ways_of(bench: Bench, pipe: Any, names: Sequence[str]) -> dict[str, BestOfN]:
    """Best-of-N by each SCORER@POLICY; a scorer is loaded once."""
    info, scorers = bench.info, dict[str, Scorer]()
    ways = {}
    for name in names:
        scorer, _, policy = name.rpartition("@")
        if scorer not in scorers:
            scorers[scorer] = get_scorer(scorer, info)
        way = BestOfN(pipe, scorers[scorer], info.candidates, policy, seed=info.spec["seed"], preview=info.preview)
        ways[name] = way
    return ways


def run(
    bench: Bench,
    pipe: Any,
    call: dict[str, Any],
    ways: dict[str, BestOfN],
    prompts: Sequence[BenchPrompt],
    at_once: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Tally]:
    """All ways, batch by batch; the first batch runs once more before, to warm up."""
    info, clip = bench.info, get_scorer("image:clip", bench.info)
    tallies = {name: Tally() for name in (FULL, *ways)}
    batches = [prompts[i : i + at_once] for i in range(0, len(prompts), at_once)]

    def full(texts: list[str], seeds: list[list[int]]) -> tuple[int, list[int]]:
        generators = [torch.Generator().manual_seed(seed) for row in seeds for seed in row]
        given = {**call, "num_images_per_prompt": info.candidates, "generator": generators, "output_type": "pt"}
        with float32_noise(pipe):
            images = pipe(texts, **as_called(pipe, given, len(texts))).images
        repeated = [text for text in texts for _ in range(info.candidates)]
        scores = (clip.embed_text(repeated) * clip.embed_inputs(images.float())).sum(-1)  # type: ignore[attr-defined]
        return info.steps * len(repeated), scores.view(len(texts), -1).argmax(1).tolist()

    def live(way: BestOfN, texts: list[str], ids: list[str], seeds: list[list[int]]) -> tuple[int, list[int]]:
        found = way.best_each(texts, ids, **call)
        chosen = [row.index(result.seeds[0]) for row, result in zip(seeds, found, strict=True)]
        return sum(result.denoiser_calls for result in found), chosen

    for number, batch in enumerate([batches[0], *batches]):
        texts, ids = [prompt.prompt for prompt in batch], [prompt.prompt_id for prompt in batch]
        seeds = [[candidate_seed(info.spec["seed"], name, i) for i in range(info.candidates)] for name in ids]
        for name, tally in tallies.items():
            start = clock()
            calls, chosen = full(texts, seeds) if name == FULL else live(ways[name], texts, ids, seeds)
            if number:
                tally.seconds.append(clock() - start)
                tally.calls += calls
                tally.chosen += chosen
        if number:
            print(f"{min(number * at_once, len(prompts))}/{len(prompts)}", flush=True)
    return tallies


def foretold(bench: Bench, way: BestOfN, results: Path, ids: pa.Array) -> list[int] | None:
    """The candidates that `way` selects by recorded scores; None where they were not recorded.

    Raises:
        NbenchError: the scores are of another build or another scorer.
    """
    assert not isinstance(way.scorer, str)
    path = result_path(results, bench.name, way.scorer.name, ".parquet")
    if not path.is_file():
        return None
    table = read_scores(path)
    origin = scores_metadata(table)
    told = (origin.get("bench_fingerprint"), origin.get("scorer_fingerprint"))
    if told != (bench.info.fingerprint, way.scorer.fingerprint):
        raise NbenchError(f"{path} is of another build or scorer: run nbench evaluate again")
    layout = Layout.of_bench(ids, bench.info.candidates)
    scores = of_prompts(of_bench(table, bench, str(path), "run nbench evaluate again"), layout)
    try:
        return selections(scores, way.policy, way.n, bench.info.steps)
    except KeyError:
        return None


def report(
    tallies: dict[str, Tally], known: dict[str, Array], ways: dict[str, BestOfN], replays: dict[str, list[int] | None]
) -> list[dict[str, Any]]:
    """A row a way: its shares of full Best-of-N's seconds and calls, recovered gain by reference with its interval, and
    how many of its selections replay foretold. Bounds beside them: a random pick, and the reference's own best."""
    full = tallies[FULL]
    count = len(full.chosen)
    known = {label: reference[:count] for label, reference in known.items()}
    candidates = next(iter(known.values())).shape[1]
    rows = []
    for name, tally in tallies.items():
        replay = replays.get(name)
        rows.append(
            {
                "way": name.rpartition("@")[0] or name,
                "policy": "" if name == FULL else str(ways[name].policy),
                "n": candidates if name == FULL else ways[name].policy.of(candidates),
                "seconds": sum(tally.seconds) / sum(full.seconds),
                "calls": tally.calls / full.calls,
                "gains": _gains(known, lambda _, picked=tally.chosen: picked),  # type: ignore[misc]
                "as_replayed": None if replay is None else int((np.array(replay) == tally.chosen).sum()),
                "prompts": count,
            }
        )
    bounds: dict[str, tuple[float, Callable[[Array], Sequence[int] | None]]] = {
        "random pick": (1 / candidates, lambda _: None),
        "oracle": (1.0, lambda reference: reference.argmax(1)),
    }
    for name, (calls, choose) in bounds.items():
        gains = _gains(known, choose)
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


def _gains(known: dict[str, Array], choose: Callable[[Array], Sequence[int] | None]) -> dict[str, dict[str, Any]]:
    """Recovered gain by reference of the candidates chosen; None: of a random one."""
    final, found = known[YARDSTICK].argmax(1), {}
    for label, reference in known.items():
        prompts, chosen = np.arange(len(reference)), choose(reference)
        random = reference.mean(1)
        picked = random if chosen is None else reference[prompts, chosen]
        columns = np.stack([picked, random, reference[prompts, final]], 1)
        draws = np.vstack([columns.mean(0), statistics.bootstrap_means(columns)])
        gains = (draws[:, 0] - draws[:, 1]) / (draws[:, 2] - draws[:, 1])
        low, high = statistics.percentiles(gains[1:])
        found[label] = {"value": gains[0], "low": float(low), "high": float(high), "mean": draws[0, 0]}
    return found


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
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=20, help="prompts in a batch (20)")
    parser.add_argument("--cpu-time", action="store_true", help="processor seconds: those of other work do not count")
    parser.add_argument("--results", type=Path, help="folder of nbench evaluate, whose scores are replayed")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    quieten_diffusers()
    bench = open_bench(given.bench)
    prompts = bench.prompts[: given.prompts]
    ids = pa.array([prompt.prompt_id for prompt in prompts])
    pipe, call = opened(bench)
    ways = ways_of(bench, pipe, given.policy)
    replays = {name: foretold(bench, way, given.results, ids) for name, way in ways.items()} if given.results else {}
    clock = time.process_time if given.cpu_time else time.perf_counter
    tallies = run(bench, pipe, call, ways, prompts, given.at_once, clock)
    rows = report(tallies, final_references(bench, Layout.of_bench(ids, bench.info.candidates)), ways, replays)
    print(table(rows, given.markdown))
    if given.json:
        told = {name: {"chosen": tally.chosen, "seconds": tally.seconds} for name, tally in tallies.items()}
        given.json.write_text(json.dumps({"rows": rows, "ways": told, "replayed": replays}) + "\n")


if __name__ == "__main__":
    main()
