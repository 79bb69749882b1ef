"""Signals of the denoiser in a live run equal those that a build records, row by row of the living candidates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nbench.benchmarks.score_tables.layout import Layout, of_prompts
from nbench.benchmarks.score_tables.table import ScoreTable
from nbench.benchmarks.scoring.score import score_bench
from nbench.builders.build import build
from nbench.builders.config import BuildConfig
from nbench.errors import NbenchError
from nbench.pipelines.recorder import Recorder
from nbench.sampling.bestofn import BestOfN
from nbench.sampling.engine import Engine
from nbench.sampling.live_scorer import LiveScorer
from nbench.sampling.monitor import AlignmentMonitor
from nbench.sampling.offline.config import Costs
from nbench.sampling.offline.replay import foretold
from nbench.sampling.policy import Policy, parse_policy
from nbench.scorers.baselines import GuidanceGapScorer
from nbench.scorers.probe import ProbeConfig, ProbeHead
from nbench.scorers.registry import get_scorer
from nbench.shards.reader import Bench, open_bench
from nbench.shards.seeds import candidate_seed

from ..tiny_pipelines import Family
from .live import PROMPT, STEPS, Mean, opened, plain, state

WORLD_LAYER = "transformer_blocks.3"
LAYERS = {"sd15": "mid_block", "sdxl": "mid_block", "z-image": "layers.0"}
TOLERANCE = 1e-3
"""Relative tolerance in float32: a batch of another size rounds differently at every step."""
HALF = 1e-2
"""Tolerance of a probe's scores: a bench stores activations, with values of dozens, as float16."""


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A probe with random weights on a projection of the embedded denoiser's activations."""
    folder = tmp_path_factory.mktemp("probe")
    torch.manual_seed(0)
    config = ProbeConfig(layer=WORLD_LAYER, dim=8, hidden=4, steps=2 * STEPS, reference="clip")
    (folder / "config.json").write_text(config.model_dump_json())
    save_file(ProbeHead(config).state_dict(), folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Six candidates of five prompts of the embedded world, with the signals of its denoiser."""
    out = tmp_path_factory.mktemp("bench")
    signals = ("latent", "image", "cfg_gap", f"activations:{WORLD_LAYER}:8")
    build(BuildConfig("genai-bench", out=out, limit=5, steps=2 * STEPS, references=(), signals=signals), progress=False)
    return open_bench(out)


def recorded(pipe: Any, seeds: list[int], arguments: dict[str, Any], signal: str) -> Recorder:
    with Recorder(pipe, range(STEPS + 1), (signal,)) as recorder:
        plain(pipe, seeds, arguments)
    return recorder


def predicted(scores: dict[int, np.ndarray], policy: Policy) -> list[int]:
    """The candidate per prompt that a policy selects, by recorded scores [P, N]."""
    selected = []
    for prompt in range(len(scores[policy.stages[0].position])):
        living = list(range(scores[policy.stages[0].position].shape[1]))
        for stage in policy.stages:
            living = sorted(living, key=lambda candidate: -scores[stage.position][prompt, candidate])[: stage.keep]
        selected += living
    return selected


def test_guidance_gaps_of_the_living_of_every_family(family: Family, family_folder: Path) -> None:
    pipe, arguments = opened(family_folder)
    plain(pipe, [1], arguments, output_type="np")
    before, scorer = state(pipe), Mean("cfg_gap")
    bestofn = BestOfN(pipe, scorer, n=4, policy="2:2,4:1")
    if family.guidance == "embedded":
        with pytest.raises(NbenchError, match="one prediction a step and image, where two make a guidance gap"):
            bestofn.best(PROMPT, "p1", **arguments)
        assert state(pipe) == before
        return
    result = bestofn.best(PROMPT, "p1", **arguments)
    assert state(pipe) == before
    assert result.denoiser_calls == 4 * 2 + 2 * 2 + 1  # no step more than the latents take
    gaps = recorded(pipe, [candidate.seed for candidate in result.candidates], arguments, "cfg_gap").cfg_gap
    assert gaps is not None
    assert torch.isfinite(gaps).all()
    assert (gaps > 0).all()
    living = [i for i, candidate in enumerate(result.candidates) if 4 in candidate.scores]
    torch.testing.assert_close(scorer.batches[0], gaps[:, :2], rtol=TOLERANCE, atol=0)
    torch.testing.assert_close(scorer.batches[1], gaps[living, :4], rtol=TOLERANCE, atol=0)
    second = gaps[:, :2].sum(1).argsort(descending=True)[:2].tolist()
    winner = max(second, key=lambda candidate: float(gaps[candidate, :4].sum()))
    assert (sorted(living), result.seeds) == (sorted(second), [result.candidates[winner].seed])


def test_activations_of_the_living_of_every_family(family: Family, family_folder: Path) -> None:
    pipe, arguments = opened(family_folder)
    reads = f"activations:{LAYERS.get(family.name, 'transformer_blocks.0')}"
    scorer = Mean(reads)
    result = BestOfN(pipe, scorer, n=4, policy="0:3,2:1").best(PROMPT, "p1", **arguments)
    assert result.denoiser_calls == 4 * 1 + 3 * 2 + 1 * 2  # who leaves at k has computed step k
    recorder = recorded(pipe, [candidate.seed for candidate in result.candidates], arguments, reads)
    [activations] = recorder.activations.values()
    living = [i for i, candidate in enumerate(result.candidates) if 2 in candidate.scores]
    assert len(living) == 3
    for read, expected in zip(scorer.batches, (activations[0], activations[2][living]), strict=True):
        torch.testing.assert_close(read, expected, rtol=TOLERANCE, atol=TOLERANCE)
    order = activations[2].mean(1)[living].argsort(descending=True).tolist()
    assert result.seeds == [result.candidates[living[order[0]]].seed]


@pytest.mark.parametrize("name", ["world", "sd15"])
def test_look_ahead_of_the_living_costs_its_calls(name: str, sd15_folder: Path) -> None:
    pipe, arguments = opened("shapes" if name == "world" else sd15_folder)
    scorer = Mean("x0@3")
    policy = parse_policy("1:3,3:1")
    result = BestOfN(pipe, scorer, n=4, policy=policy).best(PROMPT, "p1", **arguments)
    # to 1 and the step there, twice beside the run; 3 to the step at 3, where one step is left to look ahead by
    assert result.denoiser_calls == 4 * 2 + 4 * 2 + 3 * 2 + 3 * 1 + 1 == policy.rows(4, STEPS, 3)
    assert result.denoiser_rows == 2 * result.denoiser_calls
    assert result.full_denoiser_rows == 2 * 4 * STEPS
    ahead = recorded(pipe, [each.seed for each in result.candidates], arguments, "x0@3").ahead["x0@3"]
    living = [i for i, candidate in enumerate(result.candidates) if 3 in candidate.scores]
    for read, expected in zip(scorer.batches, (ahead[1], ahead[3][living]), strict=True):
        torch.testing.assert_close(read, expected, rtol=TOLERANCE, atol=TOLERANCE)
    plain_run = plain(pipe, [result.seeds[0]], arguments, output_type="np")
    assert abs(np.asarray(result.images[0]) / 255 - plain_run[0]).max() < 0.02  # the run itself is untouched


def test_look_ahead_and_attention_of_a_monitor_are_those_recorded() -> None:
    pipe, arguments = opened("shapes")
    for reads in ("x0@2", "attention:transformer_blocks.1.attn"):
        recorder = recorded(pipe, [1, 2], arguments, reads)
        places = (recorder.ahead or recorder.activations)[reads]
        scorer = Mean(reads)
        with AlignmentMonitor(pipe, scorer, PROMPT) as monitor:
            plain(pipe, [1, 2], arguments)
        if reads.startswith("attention"):
            with AlignmentMonitor(pipe, reads, PROMPT) as focus:
                plain(pipe, [1, 2], arguments)
            spreads = places[3].numpy()[:, places[3].shape[1] // 2 :]
            assert focus.scores[3] == pytest.approx((-spreads.mean(1)).tolist(), abs=TOLERANCE)
        assert list(monitor.scores)[:STEPS] == list(places) == list(range(STEPS))
        for read, expected in zip(scorer.batches, places.values(), strict=False):
            torch.testing.assert_close(read, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cfg-gap", "random", "probe"])
@pytest.mark.parametrize("policy", ["4:1", "3:3,6:1", "2:4,5:2,8:1"])
def test_scores_and_selections_are_those_of_the_bench(bench: Bench, probe: Path, name: str, policy: str) -> None:
    pipe, arguments = opened("shapes")
    arguments |= {"num_inference_steps": 2 * STEPS, "guidance_scale": bench.info.spec["guidance"]}
    model = f"probe:{probe}" if name == "probe" else name
    ids = [prompt.prompt_id for prompt in bench.prompts]
    table = score_bench(bench, get_scorer(model, bench.info), range(2 * STEPS + 1))
    scores = of_prompts(ScoreTable.of(table, "scores"), Layout.of_bench(ids, bench.info.candidates))
    results = BestOfN(pipe, model, policy=policy, seed=bench.info.spec["seed"]).best_each(
        [prompt.prompt for prompt in bench.prompts], ids, **arguments
    )
    chosen = [[candidate.seed for candidate in result.candidates].index(result.seeds[0]) for result in results]
    assert chosen == predicted(scores, parse_policy(policy))
    for row, result in enumerate(results):
        for number, candidate in enumerate(result.candidates):
            for position, score in candidate.scores.items():
                assert score == pytest.approx(scores[position][row, number], abs=HALF if name == "probe" else TOLERANCE)
    assert all(candidate.seen is not None for result in results for candidate in result.candidates)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("random", "2:6p.17w2,5:6p.2w3+4,8:1"),
        ("random", "4,2:4p.22w2,5:3p.3w2,8:1"),
        ("random", "2,2:1r.4,6:1r.6"),
        ("probe", "3:6p.17w30,8:1"),
    ],
)
def test_policies_that_look_at_scores_select_and_cost_what_replay_foretells(
    bench: Bench, probe: Path, name: str, policy: str
) -> None:
    pipe, arguments = opened("shapes")
    arguments |= {"num_inference_steps": 2 * STEPS, "guidance_scale": bench.info.spec["guidance"]}
    model = f"probe:{probe}" if name == "probe" else name
    ids, prompts = [prompt.prompt_id for prompt in bench.prompts], [prompt.prompt for prompt in bench.prompts]
    table = score_bench(bench, get_scorer(model, bench.info), range(2 * STEPS + 1))
    scores = of_prompts(ScoreTable.of(table, "scores"), Layout.of_bench(ids, bench.info.candidates))
    costs = Costs(calls_per_score=int(name == "probe"))
    chosen, calls = foretold(scores, parse_policy(policy), 6, 2 * STEPS, costs)
    bestofn = BestOfN(pipe, model, policy=policy, seed=bench.info.spec["seed"])
    results = bestofn.best_each(prompts, ids, **arguments)
    seeds = [[candidate_seed(bench.info.spec["seed"], prompt_id, i) for i in range(6)] for prompt_id in ids]
    assert [row.index(result.seeds[0]) for row, result in zip(seeds, results, strict=True)] == chosen
    assert [result.denoiser_calls for result in results] == calls
    assert len(set(calls)) > 1  # it did look at scores
    with Engine(pipe, model, policy, seed=bench.info.spec["seed"], **arguments) as engine:
        assert [result.seeds for result in engine.map(prompts, ids)] == [result.seeds for result in results]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "first"), [("cfg-gap", 1), ("random", 1), ("probe", 0)])
def test_a_monitor_tells_what_the_bench_has(bench: Bench, probe: Path, name: str, first: int) -> None:
    pipe, arguments = opened("shapes")
    arguments |= {"num_inference_steps": 2 * STEPS, "guidance_scale": bench.info.spec["guidance"]}
    model = f"probe:{probe}" if name == "probe" else name
    (batch,) = bench.batches((), signals=())
    row = batch.prompt_ids.index(bench.prompts[0].prompt_id)
    prompt = bench.prompts[0].prompt_id if name == "random" else bench.prompts[0].prompt  # it goes by the id
    generators = [torch.Generator().manual_seed(seed) for seed in batch.seeds[row : row + 6]]
    plain(pipe, [1], arguments)
    before = state(pipe)
    with AlignmentMonitor(pipe, model, prompt) as monitor:
        pipe(bench.prompts[0].prompt, num_images_per_prompt=6, generator=generators, output_type="latent", **arguments)
    assert state(pipe) == before
    table = score_bench(bench, get_scorer(model, bench.info), range(2 * STEPS + 1))
    scores = of_prompts(ScoreTable.of(table, "scores"), Layout.of_bench([bench.prompts[0].prompt_id], 6))
    assert list(monitor.scores) == [position for position in scores if position >= first]
    for position, live_scores in monitor.scores.items():
        assert live_scores == pytest.approx(scores[position][0], abs=HALF if name == "probe" else TOLERANCE)


def test_a_run_that_was_broken_off_leaves_no_gaps_behind(sd15_folder: Path) -> None:
    pipe, arguments = opened(sd15_folder)

    def stop(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    expected = recorded(pipe, [5, 6], arguments, "cfg_gap").cfg_gap
    assert expected is not None
    with AlignmentMonitor(pipe, GuidanceGapScorer(), PROMPT) as monitor:
        step, pipe.scheduler.step = pipe.scheduler.step, stop  # after the denoiser has run
        with pytest.raises(ZeroDivisionError):
            plain(pipe, [5, 6], arguments)
        pipe.scheduler.step = step
        for _ in range(2):
            plain(pipe, [5, 6], arguments)
            assert monitor.scores[STEPS] == pytest.approx(expected.sum(1).tolist(), rel=1e-6)


def test_what_no_run_gives_is_refused(sd15_folder: Path) -> None:
    pipe, arguments = opened(sd15_folder)
    pipe.unet.conv_in.register_forward_pre_hook(lambda *_: pytest.fail("the denoiser has run"))
    for reads, policy, keep, reason in (
        ("reference:clip", "2:1", 1, "mean reads reference:clip, which a running pipeline does not have"),
        ("activations:mid_block", f"{STEPS}:1", 1, f"which the finished position {STEPS} does not have"),
        ("activations:mid_block", "2:3", 2, f"which the finished position {STEPS} does not have"),
        ("cfg_gap", "0:1", 1, "position 0 is pure noise"),
        ("activations:mid_blocks", "2:1", 1, "no layer 'mid_blocks' in UNet2DConditionModel: near it mid_block"),
    ):
        with pytest.raises(NbenchError, match=reason):
            BestOfN(pipe, Mean(reads), policy=policy, keep=keep).best(PROMPT, **arguments)


def test_what_a_scorer_gives_is_checked_in_a_run_as_on_a_bench(sd15_folder: Path) -> None:
    pipe, arguments = opened(sd15_folder)

    class Column(Mean):
        def score(self, inputs: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
            return super().score(inputs, prompts)[:, None]

    for scorer in (Column(), Column("x0_image")):
        with pytest.raises(NbenchError, match=r"scorer mean: score returns shape \[4, 1\] for 4 rows, not \[B\]"):
            BestOfN(pipe, scorer, n=4, policy="2:1").best(PROMPT, **arguments)
        reason = r"scorer mean: score returns shape \[1, 1\] for 1 rows, not \[B\]"
        with pytest.raises(NbenchError, match=reason), AlignmentMonitor(pipe, scorer, PROMPT):
            plain(pipe, [1], arguments)
    with pytest.raises(
        NbenchError, match="mean reads decoded images and this pipeline has no VAE: use a scorer that reads previews"
    ):
        LiveScorer(Mean("x0_image"), None)
