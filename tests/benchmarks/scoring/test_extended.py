"""Only the rows that a bench has gained are scored."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest

from nbench.benchmarks.evaluate import evaluate
from nbench.benchmarks.evaluate_config import EvaluateConfig
from nbench.benchmarks.scoring.options import ScoreOptions
from nbench.benchmarks.scoring.score import score_bench
from nbench.builders.extension import extended
from nbench.shards.dataset import DatasetFolder
from nbench.shards.fingerprint import fingerprint
from nbench.shards.formats import shard_writer
from nbench.shards.reader import Bench, open_bench
from nbench.shards.schema import DatasetInfo, TrajectoryBatch
from nbench.shards.scores import read_scores, reference_path, write_scores

from ...dataset_info import commit_shard, dataset_info, missing
from .counted_scorer import Counted
from .test_score import Brightness


def rows_of(info: DatasetInfo, numbers: Sequence[int]) -> TrajectoryBatch:
    """Rows with corrupted captions whose values follow from prompt and candidate."""
    cells = [info.cell(number) for number in numbers]
    draws = [np.random.default_rng(cell) for cell in cells]
    return TrajectoryBatch(
        prompt_ids=[f"p{prompt}" for prompt, _ in cells],
        prompts=[f"prompt {prompt}" for prompt, _ in cells],
        candidates=[candidate for _, candidate in cells],
        seeds=list(numbers),
        tags=[None] * len(cells),
        corruptions=[{"subject": "other", "colour": None, "quantity": None, "background": "b"}] * len(cells),
        errors=[""] * len(cells),
        latents={k: np.stack([draw.random((4, 2, 2)).astype(np.float16) for draw in draws]) for k in info.stored},
        images=np.zeros((len(cells), 8, 8, 3), np.uint8),
    )


def grow(path: Path, prompts: int, candidates: int) -> Bench:
    """A bench of so many prompts and candidates in `path`, built there or extended, with a reference `clip`."""
    spec = {"pipeline": {"name": "x", "content": ""}, "prompts": {"count": prompts}, "candidates": candidates}
    sizes: dict[str, Any] = {
        "latent_shape": (4, 2, 2),
        "image_size": (8, 8),
        "rows_per_shard": 3,
        "steps": 2,
        "stored": (0, 1, 2),
    }
    sizes |= {"n_prompts": prompts, "candidates": candidates}
    new = dataset_info(spec=spec, fingerprint=fingerprint(spec), **sizes)
    folder = DatasetFolder(path)
    if folder.started:
        folder.extend(extended(folder.info, spec))
    else:
        folder.create(new)
    for index in missing(folder):
        writer = shard_writer(path, folder.info, index)
        writer.write(rows_of(folder.info, folder.info.shard_rows(index)))
        commit_shard(folder, index, writer.commit())
    bench = open_bench(path)
    table = score_bench(bench, Brightness(reads="latent"), [2])
    origin = {"scorer_fingerprint": "1", "bench_fingerprint": bench.info.fingerprint}
    write_scores(reference_path(path, "clip"), table, origin)
    return bench


def test_only_the_rows_of_an_extension_are_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scorer, table = Counted(tmp_path / "one"), tmp_path / "out/grows/brightness.parquet"
    captions, bench = ScoreOptions(captions=True), grow(tmp_path / "grows", 2, 2)
    evaluate(replace(scorer.config(bench, "1", tmp_path / "out"), options=captions))
    evaluate(scorer.config(bench, "0", tmp_path / "out"))
    evaluate(EvaluateConfig(bench.path, ("random",), "0,1", tmp_path / "out"))
    for prompts, candidates, added in (4, 2, 4), (4, 3, 4):
        bench = grow(tmp_path / "grows", prompts, candidates)
        config = scorer.config(bench, "1", tmp_path / "out")
        scorer.taken()
        assert evaluate(config, progress=True).n_candidates == candidates
        assert scorer.taken() == added * (1 + 2 * 3)  # two positions had the scores of two captions, too
        assert "has changed since" not in capsys.readouterr().err
        at_once = replace(config, latents="0,1", out=tmp_path / f"at-once-{candidates}", options=captions)
        evaluate(at_once)
        fresh = read_scores(tmp_path / f"at-once-{candidates}/grows/brightness.parquet")
        uncaptioned = pc.and_(pc.equal(fresh["position"], 0), pc.not_equal(fresh["caption"], "prompt"))
        assert read_scores(table).equals(fresh.filter(pc.invert(uncaptioned)))
        assert scorer.taken() == 3 * 3 * prompts * candidates
        evaluate(config)
        assert scorer.taken() == 0
    evaluate(EvaluateConfig(bench.path, ("random",), "1", tmp_path / "out"))
    random = read_scores(tmp_path / "out/grows/random.parquet")
    assert random.num_rows == 12 * 3  # free scores of positions that were not asked for have grown, too


def test_an_extension_of_other_rows_is_scored_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scorer, bench = Counted(tmp_path / "one"), grow(tmp_path / "grows", 2, 2)
    evaluate(scorer.config(bench, "1", tmp_path / "out"))
    records = [replace(bench.info.shards[0], sha256="0" * 64), *bench.info.shards[1:]]  # type: ignore[type-var]
    folder = DatasetFolder(bench.path)  # failed rows were made again in between
    folder.extend(replace(bench.info, shards=tuple(records)))
    bench = grow(bench.path, 3, 2)
    scorer.taken()
    evaluate(scorer.config(bench, "1", tmp_path / "out"), progress=True)
    assert scorer.taken() == 6 * 2
    assert "grows has changed since" in capsys.readouterr().err
