"""A small bench with every signal; its latents are the embedded VAE's encodings of rendered scenes."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from nbench.pipelines.find import resolve_pipeline
from nbench.shapes.grammar import corruptions, random_scene
from nbench.shapes.render import render
from nbench.shards.reader import Bench, open_bench
from nbench.shards.schema import PositionInfo, TrajectoryBatch
from nbench.shards.scores import SCORE_SCHEMA, reference_path, scores_metadata, write_scores

from ..dataset_info import build, dataset_info

PROMPTS, CANDIDATES, STEPS, LAYER = 12, 3, 10, "blocks.1"
WIDTH = 6
SIGNALS = ("latent", "x0", "cfg_gap", f"activations:{LAYER}:{WIDTH}", "image")


def make_signals_bench(path: Path, fingerprint: str = "f" * 8) -> Bench:
    """Positions 0, 5, 10; no corruptions of the first prompt.

    The x0 estimate is the finished latent with a little noise, the first activation is the score of the reference, and
    the CFG gap of each step is the index of the row.
    """
    import diffusers

    world = resolve_pipeline("shapes")
    vae: Any = diffusers.AutoencoderKL.from_pretrained(world.source, subfolder="vae").eval()
    draw, rng, rows = random.Random(0), np.random.default_rng(0), PROMPTS * CANDIDATES
    scenes = [random_scene(draw) for _ in range(PROMPTS)]
    images = render([scene for scene in scenes for _ in range(CANDIDATES)], rng).images
    with torch.no_grad():
        mean = vae.encode(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1).latent_dist.mean
    final = ((mean - vae.config.shift_factor) * vae.config.scaling_factor).numpy().astype(np.float16)
    noise = rng.normal(size=final.shape).astype(np.float16)
    score = rng.random(rows)
    activations = {k: rng.normal(size=(rows, WIDTH)).astype(np.float32) for k in (0, 5)}
    for values in activations.values():
        values[:, 0] = score
    info = dataset_info(
        n_prompts=PROMPTS,
        candidates=CANDIDATES,
        steps=STEPS,
        rows_per_shard=15,
        stored=(),
        fingerprint=fingerprint,
        spec={"pipeline": {"name": "shapes", "content": world.content}},
        positions=tuple(PositionInfo(k, 100.0 * (10 - k), 1.0, 1.0) for k in (0, 5, 10)),
        preview=world.preview,
        signals=SIGNALS,
    )

    def batches(numbers: range) -> list[TrajectoryBatch]:
        some = np.array(numbers)
        prompts = some // CANDIDATES
        return [
            TrajectoryBatch(
                prompt_ids=[f"p{prompt:02d}" for prompt in prompts],
                prompts=[scenes[prompt].caption for prompt in prompts],
                candidates=(some % CANDIDATES).tolist(),
                seeds=some.tolist(),
                tags=[None] * len(some),
                corruptions=[corruptions(scenes[prompt]) if prompt else None for prompt in prompts],
                errors=[""] * len(some),
                latents={0: noise[some], 5: final[some] + noise[some], 10: final[some]},
                images=images[some],
                x0={0: final[some] + noise[some] / 2, 5: final[some] + noise[some] / 50},
                cfg_gap=np.repeat(some[:, None], STEPS, axis=1).astype(np.float32),
                activations={LAYER: {k: values[some] for k, values in activations.items()}},
            )
        ]

    build(path, info, batches)
    columns = {
        "prompt_id": [f"p{row // CANDIDATES:02d}" for row in range(rows)],
        "candidate": [row % CANDIDATES for row in range(rows)],
        "position": [STEPS] * rows,
        "caption": ["prompt"] * rows,
        "score": score,
        "status": ["ok"] * rows,
    }
    table = pa.table(columns, schema=SCORE_SCHEMA)
    write_scores(
        reference_path(path, "clip"), table, {"bench_fingerprint": info.fingerprint, "scorer_fingerprint": "1"}
    )
    return open_bench(path)


def with_reference(bench: Bench, copy: Path, score: Callable[[np.ndarray], np.ndarray], scorer: str = "1") -> Path:
    """A copy of a bench with a reference `other`, made of the scores of `clip`."""
    shutil.copytree(bench.path, copy, dirs_exist_ok=True)
    table = bench.references["clip"]
    scores = pa.array(score(table["score"].to_numpy()), table.schema.field("score").type)
    changed = table.set_column(table.column_names.index("score"), "score", scores)
    origin = scores_metadata(table) | {"scorer_fingerprint": scorer}
    write_scores(reference_path(copy, "other"), changed, origin)
    return copy
