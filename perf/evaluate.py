"""Time of CLIP over every position of a bench, beside the usual way with `.pt` files, PNGs and an image processor.

python perf/evaluate.py [--rows 1800] [--others 4] [--json evaluate.json]

The latents are synthetic, in the shape of the embedded world's; the CLIP is that of the embedded world.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from formats import STEPS

from nbench.builders.prompts.choose import world_prompts
from nbench.pipelines.find import resolve_pipeline
from nbench.shards.reader import Bench, open_bench
from nbench.shards.schema import TrajectoryBatch
from nbench.tests.dataset_info import build, dataset_info
from shards import bytes_read

CANDIDATES, ROWS_PER_SHARD = 6, 600
TWO, ALL = (20, 30), tuple(range(STEPS + 1))
SHAPE, IMAGE = (4, 16, 16), (32, 32)


def make_bench(folder: Path, rows: int) -> Bench:
    """A bench of the embedded world's prompts with latents that change from noise to a smooth picture."""
    rng, world = np.random.default_rng(0), resolve_pipeline("shapes")
    prompts = world_prompts("genai-bench", rows // CANDIDATES)
    info = dataset_info(
        n_prompts=len(prompts),
        candidates=CANDIDATES,
        steps=STEPS,
        rows_per_shard=ROWS_PER_SHARD,
        stored=ALL,
        latent_shape=SHAPE,
        image_size=IMAGE,
        preview=world.preview,
    )

    def batches(numbers: range) -> list[TrajectoryBatch]:
        picture = np.repeat(np.repeat(rng.normal(size=(len(numbers), 4, 4, 4)), 4, axis=2), 4, axis=3)
        noise = rng.normal(size=picture.shape)
        of = [prompts[number // CANDIDATES] for number in numbers]
        return [
            TrajectoryBatch(
                prompt_ids=[prompt.id for prompt in of],
                prompts=[prompt.text for prompt in of],
                candidates=[number % CANDIDATES for number in numbers],
                seeds=list(numbers),
                tags=[prompt.tags for prompt in of],
                corruptions=[prompt.corruptions for prompt in of],
                errors=[""] * len(numbers),
                latents={k: (picture * k / STEPS + noise * (1 - k / STEPS)).astype(np.float16) for k in ALL},
                images=np.zeros((len(numbers), *IMAGE, 3), np.uint8),
            )
        ]

    return open_bench(build(folder, info, batches))


class Clock:
    """Seconds since its creation: wall clock, and processor seconds of this process."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self._wall, time.process_time() - self._cpu


def ours(bench: Bench, results: Path) -> tuple[tuple[float, float], dict[tuple[str, int, int], float]]:
    """Seconds to score all positions into a table on disk (without loading the model), and the scores."""
    from nbench.benchmarks.scoring.options import ScoreOptions
    from nbench.benchmarks.scoring.store import Store
    from nbench.scorers.registry import get_scorer

    scorer = get_scorer("clip", bench.info)
    clock = Clock()
    store = Store(results / "clip.parquet", bench, scorer, ScoreOptions(ahead=1))
    with store.held():
        table = store.scored(ALL).table
    seconds = clock.read()
    columns = (table[name].to_pylist() for name in ("prompt_id", "candidate", "position", "score"))
    return seconds, {(prompt, candidate, k): score for prompt, candidate, k, score in zip(*columns, strict=True)}


def write_pt(bench: Bench, folder: Path, rows: int) -> list[tuple[str, int, str]]:
    """The first trajectories as one `.pt` each, as a hook on a pipeline would save them; not timed."""
    import torch

    names = []
    for batch in bench.batches(ALL, batch_size=rows):
        for row in range(rows):
            latents = [torch.tensor(batch.latents[k][row]) for k in ALL]
            torch.save(latents, folder / f"{row}.pt")
            names.append((batch.prompt_ids[row], batch.candidates[row], batch.prompts[row]))
        return names
    raise RuntimeError("the bench is empty")


def theirs(
    bench: Bench, folder: Path, names: list[tuple[str, int, str]]
) -> tuple[tuple[float, float], dict[Any, float]]:
    """Seconds from `.pt` to scores through one PNG per position and the model's own processor, and the scores."""
    import torch
    from PIL import Image
    from transformers import CLIPImageProcessorPil, CLIPModel, PreTrainedTokenizerFast

    from nbench.scorers.builtin import fitting
    from nbench.scorers.decoders import preview

    assert bench.info.preview is not None
    source = fitting("clip", bench.info.latent_space)
    model: Any = CLIPModel.from_pretrained(source).eval()
    processor: Any = CLIPImageProcessorPil.from_pretrained(source)
    tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(source)
    scores, clock = {}, Clock()
    for row in range(len(names)):
        for k, latent in enumerate(torch.load(folder / f"{row}.pt", weights_only=True)):
            rgb = (preview(latent[None].float(), bench.info.preview)[0] * 255).round().byte()
            Image.fromarray(rgb.permute(1, 2, 0).numpy()).save(folder / f"{row}-{k}.png")
    for row, (prompt_id, candidate, prompt) in enumerate(names):
        for k in ALL:
            with Image.open(folder / f"{row}-{k}.png") as image:
                pixels = processor(images=image.convert("RGB"), return_tensors="pt")["pixel_values"]
            tokens = tokenizer([prompt], padding=True, return_tensors="pt")
            with torch.inference_mode():
                outputs = model(pixel_values=pixels, input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
            score = torch.nn.functional.cosine_similarity(outputs.image_embeds, outputs.text_embeds).item()
            scores[prompt_id, candidate, k] = score
    return clock.read(), scores


def read_two(folder: Path) -> tuple[int, int]:
    """Bytes that a process reads to score two positions, and bytes of their columns on disk."""
    import pyarrow.parquet as pq

    command = [sys.executable, __file__, "--two", str(folder)]
    read = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
    on_disk = 0
    for path in folder.glob("data/*.parquet"):
        metadata = pq.ParquetFile(path).metadata
        for group in range(metadata.num_row_groups):
            chunks = (metadata.row_group(group).column(i) for i in range(metadata.num_columns))
            names = tuple(f"latent_{k:02d}." for k in TWO)
            on_disk += sum(chunk.total_compressed_size for chunk in chunks if chunk.path_in_schema.startswith(names))
    return read, on_disk


def score_two(folder: Path) -> int:
    """Bytes that this process reads to score two positions of a bench."""
    from nbench.benchmarks.scoring.score import score_bench
    from nbench.scorers.registry import get_scorer

    bench = open_bench(folder)
    scorer = get_scorer("clip", bench.info)
    score_bench(bench, scorer, TWO)  # imports are read before counting
    before = bytes_read()
    score_bench(bench, scorer, TWO)
    return bytes_read() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1800, help="trajectories, six candidates per prompt (1800)")
    parser.add_argument("--others", type=int, default=4, help="trajectories scored the usual way (4)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--two", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.two:
        print(score_two(options.two))
        return
    with tempfile.TemporaryDirectory() as place:
        (files := Path(place, "pt")).mkdir()
        bench = make_bench(Path(place, "bench"), options.rows)
        names = write_pt(bench, files, options.others)
        seconds, scores = ours(bench, Path(place))
        other, same = theirs(bench, files, names)
        read, on_disk = read_two(Path(place, "bench"))
    worst = max(abs(scores[key] - value) for key, value in same.items())
    (each, each_cpu), (others, others_cpu) = (
        [1000 * value / count for value in both] for both, count in ((seconds, len(scores)), (other, len(same)))
    )
    figures = {
        "trajectories": bench.info.rows,
        "scores": len(scores),
        "seconds": seconds[0],
        "ms a score": each,
        "ms a score, .pt and PNG": others,
        "ratio": others / each,
        "ms of processor": each_cpu,
        "ms of processor, .pt and PNG": others_cpu,
        "ratio of processor time": others_cpu / each_cpu,
        "largest difference": worst,
        "bytes read for two positions": read,
        "bytes of their columns": on_disk,
        "threads": int(os.environ.get("OMP_NUM_THREADS", 0)) or os.cpu_count(),
    }
    for name, value in figures.items():
        print(f"{name:32}{value:14,.3f}" if isinstance(value, float) else f"{name:32}{value:14,}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
