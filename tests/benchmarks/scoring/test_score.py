"""Scoring streams a bench through each kind of scorer, and reads and embeds no more than it must."""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from nbench.benchmarks.scoring.score import score_bench
from nbench.errors import NbenchError
from nbench.scorers.baselines import RandomScorer
from nbench.scorers.protocols import Reads
from nbench.scorers.registry import get_scorer
from nbench.shards.reader import Bench
from nbench.shards.schema import TrajectoryBatch

from ...small_bench import CANDIDATES, PROMPTS, Quality

Fixture = tuple[Bench, Quality]


@dataclass
class Brightness:
    """A dual encoder with the mean of its input as cosine; it records the prompts it embeds."""

    reads: Reads = "preview"
    name: str = "brightness"
    fingerprint: str = "1"
    prompts: list[str] = field(default_factory=list)

    def embed_text(self, prompts: Sequence[str]) -> torch.Tensor:
        self.prompts += prompts
        return torch.tensor([[1.0, 0.0]]).expand(len(prompts), 2)

    def embed_inputs(self, inputs: torch.Tensor) -> torch.Tensor:
        mean = inputs[:, 0].mean((1, 2))
        return torch.stack([mean, (1 - mean**2).clamp(min=0).sqrt()], dim=1)


@dataclass
class PromptLength:
    """A PairScorer that records its inputs."""

    reads: Reads = "image"
    name: str = "length"
    fingerprint: str = "1"

    def score(self, inputs: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        return inputs.mean((1, 2, 3)) + torch.tensor([float(prompt.split()[1]) for prompt in prompts])


def test_a_twin_tower_scores_every_position_and_embeds_each_prompt_once(small_bench: Fixture) -> None:
    bench, truth = small_bench
    scorer = Brightness()
    done = 0

    def count(name: str, rows: int) -> None:
        nonlocal done
        assert name == "brightness"
        done += rows

    table = score_bench(bench, scorer, [5, 10], count)
    assert done == bench.info.rows
    assert scorer.prompts == [prompt.prompt for prompt in bench.prompts]
    assert table.num_rows == 2 * (PROMPTS * CANDIDATES - 1)  # the failed candidate has no row
    for row in table.to_pylist():
        cell = int(row["prompt_id"][1:]), row["candidate"]
        expected = truth.noisy[cell].clip(0, 1) if row["position"] == 5 else truth.quality[cell]
        assert row["score"] == pytest.approx(expected, abs=2e-3)
        assert (row["caption"], row["status"]) == ("prompt", "ok")


def test_images_go_to_pair_scorers_at_the_final_position_alone(small_bench: Fixture) -> None:
    bench, truth = small_bench
    table = score_bench(bench, PromptLength(), [0, 5, 10])
    assert set(table["position"].to_pylist()) == {10}
    prompts, candidates = (np.array(table[name].to_pylist()) for name in ("prompt_id", "candidate"))
    numbers = np.array([int(prompt[1:]) for prompt in prompts])
    np.testing.assert_allclose(table["score"], truth.quality[numbers, candidates] + numbers, atol=1 / 255)
    with pytest.raises(NbenchError, match="nothing that length could score"):
        score_bench(bench, PromptLength(), [5])


def test_raw_latents_come_as_stored(small_bench: Fixture) -> None:
    bench, truth = small_bench
    scores = np.array(score_bench(bench, Brightness(reads="latent"), [5])["score"].to_pylist())
    expected = truth.noisy[np.isfinite(truth.noisy)]
    assert expected.max() > 1
    np.testing.assert_allclose(scores, expected, rtol=1e-3)


def test_names_are_scored_without_reading_latents_or_images(
    small_bench: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: set[str] = set()
    original = pq.ParquetFile.iter_batches

    def spy(self: pq.ParquetFile, size: int, *, columns: list[str], row_groups: list[int]) -> object:
        read.update(columns)
        return original(self, size, columns=columns, row_groups=row_groups)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", spy)
    score_bench(small_bench[0], RandomScorer(), [0, 10])
    assert not [column for column in read if column.startswith("latent") or column == "image"]
    score_bench(small_bench[0], Brightness(), [5])
    assert [column for column in read if column.startswith("latent") or column == "image"] == ["latent_05"]


def test_scoring_holds_one_batch_at_a_time(small_bench: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[TrajectoryBatch]] = []
    most = 0
    original = Bench.batches

    def spy(self: Bench, positions: Sequence[int], images: bool, batch_size: int, *rest: Any, **kept: Any) -> Any:
        nonlocal most
        for batch in original(self, positions, images, 10, *rest, **kept):
            alive.append(weakref.ref(batch))
            most = max(most, sum(reference() is not None for reference in alive))
            yield batch

    monkeypatch.setattr(Bench, "batches", spy)
    score_bench(small_bench[0], Brightness(), [5, 10])
    assert len(alive) > 10
    assert most <= 3  # the one at hand, and the last one in the hands of each loop


def test_a_scores_nan_is_a_failed_row(small_bench: Fixture) -> None:
    class Broken(PromptLength):
        def score(self, inputs: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
            return torch.where(torch.arange(len(prompts)) == 0, torch.nan, 1.0)

    table = score_bench(small_bench[0], Broken(), [10])
    assert table["status"].to_pylist()[:2] == ["failed", "ok"]
    assert np.isnan(table["score"][0].as_py())


def test_previews_need_a_map(small_bench: Fixture) -> None:
    bench = small_bench[0]
    with pytest.raises(NbenchError, match="no preview map"):
        score_bench(replace(bench, info=replace(bench.info, preview=None)), Brightness(), [5])
    with pytest.raises(NbenchError, match=r"latents 7 not in this bench"):
        score_bench(bench, Brightness(), [7])


def test_registry_fits_weights_to_the_latent_space(small_bench: Fixture) -> None:
    info = small_bench[0].info
    with pytest.raises(NbenchError, match=r"unknown model noisclip \(did you mean noisyclip\?\)"):
        get_scorer("noisclip", info)
    with pytest.raises(NbenchError, match=r"no noisyclip weights fit latents of 4x128x128: .* 4x16x16"):
        get_scorer("noisyclip", replace(info, latent_shape=(4, 128, 128)))
    folder = Path(__file__).parents[3] / "shapes" / "weights" / "noisyclip"
    scorers = [get_scorer(name, info) for name in ("clip", "noisyclip", str(folder), "random", "vqascore")]
    assert [scorer.name for scorer in scorers] == ["clip", "noisyclip", "noisyclip", "random", "vqascore"]
    assert [scorer.reads for scorer in scorers] == ["preview", "preview", "preview", "nothing", "image"]
