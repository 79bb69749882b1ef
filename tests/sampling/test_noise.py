"""Candidates are chosen by their initial noise, before any denoiser call: only by scorers that are made for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from nbench.errors import NbenchError
from nbench.pipelines.aliases import WORLD_PIPELINE
from nbench.pipelines.schedulers import swapped
from nbench.sampling.bestofn import BestOfN
from nbench.sampling.engine import Engine
from nbench.sampling.monitor import AlignmentMonitor

from ..tiny_pipelines import Family
from .live import PROMPT, STEPS, Mean, opened, plain, state
from .test_live_scorer import recorded


class Noise(Mean):
    """The mean of the latent, of the initial noise too."""

    scores_noise = True


def test_the_noise_of_every_family_is_scored_before_the_denoiser_runs(family: Family, family_folder: Path) -> None:
    pipe, arguments = opened(family_folder)
    plain(pipe, [1], arguments, output_type="np")
    before, scorer = state(pipe), Noise()
    result = BestOfN(pipe, scorer, n=4, policy="0:2,3:1").best(PROMPT, "p1", **arguments)
    assert state(pipe) == before
    assert result.denoiser_calls == 2 * 3 + STEPS - 3
    latents = recorded(pipe, [candidate.seed for candidate in result.candidates], arguments, "latent").latents
    torch.testing.assert_close(scorer.batches[0], latents[0].float())
    merits = latents[0].float().flatten(1).mean(1)
    living = [i for i, candidate in enumerate(result.candidates) if 3 in candidate.scores]
    assert living == sorted(merits.argsort(descending=True)[:2].tolist())
    torch.testing.assert_close(scorer.batches[1], latents[3][living].float(), rtol=1e-3, atol=1e-3)


def test_an_engine_chooses_by_noise_as_a_single_run_does() -> None:
    pipe, arguments = opened("shapes")
    bestofn = BestOfN(pipe, Noise(), n=4, policy="0:1")
    alone = [bestofn.best(prompt, **arguments) for prompt in ("one red star", "one blue circle")]
    with Engine(pipe, Noise(), "0:1", n=4, **arguments) as engine:
        together = list(engine.map(["one red star", "one blue circle"]))
    for one, other in zip(alone, together, strict=True):
        assert one.seeds == other.seeds
        assert one.denoiser_calls == other.denoiser_calls == STEPS
        assert one.denoiser_rows == other.denoiser_rows > 0


def test_new_noise_is_drawn_below_a_score_without_a_call() -> None:
    pipe, arguments = opened("shapes")
    result = BestOfN(pipe, Noise(), n=4, policy="1,0:1r1000").best(PROMPT, **arguments)
    assert len(result.candidates) == 4  # none is good enough: the best one runs
    assert result.seeds == [max(result.candidates, key=lambda candidate: candidate.scores[0]).seed]
    assert (result.denoiser_calls, result.full_denoiser_rows) == (STEPS, 4 * result.denoiser_rows)


def test_a_monitor_scores_the_noise_first() -> None:
    pipe, arguments = opened("shapes")
    with AlignmentMonitor(pipe, Noise(), PROMPT) as monitor:
        for _ in range(2):
            plain(pipe, [1, 2], arguments)
            assert list(monitor.scores) == list(range(STEPS + 1))
    noise = recorded(pipe, [1, 2], arguments, "latent").latents[0]
    assert monitor.scores[0] == pytest.approx(noise.flatten(1).mean(1).tolist(), abs=1e-6)
    with AlignmentMonitor(pipe, Mean(), PROMPT) as monitor:
        plain(pipe, [1], arguments)
    assert list(monitor.scores) == list(range(1, STEPS + 1))


def test_only_a_model_that_was_trained_on_noise_alone_scores_it(tmp_path: Path) -> None:
    shipped = WORLD_PIPELINE.with_name("noisyclip-t")
    for positions in ([0], [0, 10]):
        folder = tmp_path / f"of-{len(positions)}"
        shutil.copytree(shipped, folder)
        recipe = json.loads((folder / "training.json").read_text())
        (folder / "training.json").write_text(json.dumps(recipe | {"positions": positions}))
    pipe, arguments = opened("shapes")
    result = BestOfN(pipe, str(tmp_path / "of-1"), n=3, policy="0:1").best(PROMPT, **arguments)
    assert result.denoiser_calls == STEPS
    for model in ("noisyclip-t", str(tmp_path / "of-2")):
        with pytest.raises(NbenchError, match=r"position 0 is pure noise.*noise-prior"):
            BestOfN(pipe, model, n=3, policy="0:1").best(PROMPT, **arguments)


def test_noise_is_not_copied() -> None:
    pipe, arguments = opened("shapes")
    pipe.scheduler = swapped(pipe, "FlowMatchLCM")
    with pytest.raises(NbenchError, match="copies noise before the first step: resample at 1 or later"):
        BestOfN(pipe, Noise(), n=3, policy="0:3s10,3:1").best(PROMPT, **arguments)
