"""What Best-of-N with pruning keeps, and what it costs in seconds: live runs beside full Best-of-N on this machine.

For every batch of prompts of a bench, one after the other: the stock pipeline makes all candidates and CLIP scores the
finished images (full Best-of-N), then each policy runs live with the same seeds. What a policy selects is judged by the
bench's references of those very candidates; replaying it on recorded scores must foretell what it selects.

python perf/best_of_n.py data/bench --policy x0-image@9:1 --policy noisyclip@20:1 [--prompts 200] [--json live.json]
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from nbench.benchmarks import statistics
from nbench.benchmarks.compare import final_references
from nbench.builders.pipelines import load_pipeline, resolve_pipeline
from nbench.sampling.bestofn import BestOfN
from nbench.scorers.registry import get_reference, get_scorer
from nbench.shards.reader import Bench, open_bench
from nbench.shards.seeds import candidate_seed


@dataclass
class Tally:
    """Of one way to choose: seconds and denoiser calls so far, and the candidates it chose, a prompt each."""

    seconds: float = 0.0
    calls: int = 0
    chosen: list[int] = field(default_factory=list)


def run(bench: Bench, policies: list[str], n_prompts: int, at_once: int) -> dict[str, Tally]:
    info = bench.info
    entry = resolve_pipeline(info.spec["pipeline"]["name"])
    pipe = load_pipeline(entry, entry.dtype)
    guidance = {} if info.spec["guidance"] is None else {"guidance_scale": info.spec["guidance"]}
    call: dict[str, Any] = {"num_inference_steps": info.steps, **guidance, **info.spec["call_kwargs"]}
    clip = get_reference("clip", info)
    ways = {
        name: BestOfN(
            pipe,
            get_scorer(name.split("@")[0], info),
            info.candidates,
            name.split("@")[1],
            seed=info.spec["seed"],
            preview=info.preview,
        )
        for name in policies
    }
    tallies = {"full": Tally(), **{name: Tally() for name in ways}}
    chosen = bench.prompts[:n_prompts]
    batches = [chosen[i : i + at_once] for i in range(0, len(chosen), at_once)]
    for number, batch in enumerate([batches[0], *batches]):  # the first warms up
        texts, ids = [prompt.prompt for prompt in batch], [prompt.prompt_id for prompt in batch]
        seeds = {name: [candidate_seed(info.spec["seed"], name, i) for i in range(info.candidates)] for name in ids}
        start = time.perf_counter()
        generators = [torch.Generator().manual_seed(seed) for name in ids for seed in seeds[name]]
        images = pipe(
            texts, num_images_per_prompt=info.candidates, generator=generators, output_type="pt", **call
        ).images
        repeated = [text for text in texts for _ in range(info.candidates)]
        scores = (clip.embed_text(repeated) * clip.embed_inputs(images.float())).sum(-1).view(len(batch), -1)  # type: ignore[attr-defined]
        best = scores.argmax(1).tolist()
        seconds = time.perf_counter() - start
        results = {}
        for name, way in ways.items():
            results[name] = way.best_each(texts, ids, **call)
        if number == 0:
            continue
        tallies["full"].seconds += seconds
        tallies["full"].calls += info.steps * info.candidates * len(batch)
        tallies["full"].chosen += best
        for name, found in results.items():
            tally = tallies[name]
            tally.seconds += sum(result.seconds for result in found)
            tally.calls += sum(result.denoiser_calls for result in found)
            tally.chosen += [seeds[key].index(result.seeds[0]) for key, result in zip(ids, found, strict=True)]
        print(f"{number * at_once}/{len(chosen)}", flush=True)
    return tallies


def report(tallies: dict[str, Tally], known: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """A row a way and reference: shares of full Best-of-N's seconds and calls, and recovered gain with its interval."""
    rows = []
    full = tallies["full"]
    for label, reference in known.items():
        final = known["clip"][: len(full.chosen)].argmax(1)
        values = reference[: len(full.chosen)]
        prompts = np.arange(len(values))
        random, best = values.mean(1), values[prompts, final]
        for name, tally in tallies.items():
            picked = values[prompts, tally.chosen]
            means = statistics.bootstrap_means(np.stack([picked, random, best], 1))
            gains = (means[:, 0] - means[:, 1]) / (means[:, 2] - means[:, 1])
            rows.append(
                {
                    "way": name,
                    "reference": label,
                    "seconds": tally.seconds / full.seconds,
                    "calls": tally.calls / full.calls,
                    "recovered_gain": float((picked - random).mean() / (best - random).mean()),
                    "recovered_gain_ci": np.quantile(gains, [0.025, 0.975]).tolist(),
                    "mean": float(picked.mean()),
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", type=Path)
    parser.add_argument("--policy", action="append", required=True, help="SCORER@POLICY, as noisyclip@10:3,20:1")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=20, help="prompts in a batch (20)")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    bench = open_bench(given.bench)
    tallies = run(bench, given.policy, given.prompts, given.at_once)
    rows = report(tallies, final_references(bench, pa.array([prompt.prompt_id for prompt in bench.prompts])))
    for row in rows:
        low, high = row["recovered_gain_ci"]
        print(
            f"{row['reference']:9} {row['way']:28} seconds {row['seconds']:.3f}  calls {row['calls']:.3f}  "
            f"gain {row['recovered_gain']:.3f} ({low:.3f} .. {high:.3f})"
        )
    if given.json:
        given.json.write_text(json.dumps({"rows": rows, "chosen": {k: t.chosen for k, t in tallies.items()}}) + "\n")


if __name__ == "__main__":
    main()
