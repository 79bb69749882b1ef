"""A candidate that stopped and is recalled ends as in an unbroken run, and no denoiser call is made twice for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nbench.pipelines.denoisers import denoisers
from nbench.sampling.bestofn import BestOfN, BestOfNResult
from nbench.sampling.engine import Engine
from nbench.sampling.offline.config import Costs
from nbench.sampling.offline.replay import foretold
from nbench.sampling.policy import parse_policy
from nbench.sampling.pruned_batch import Progress
from nbench.scorers.stack import StackConfig, StackScorer

from ..tiny_pipelines import Family
from .live import PROMPT, STEPS, Mean, opened, plain

LEVELS = 2
"""Of 255, by which images may differ, since products of other sizes round otherwise."""


@contextmanager
def counted(pipe: Any) -> Iterator[list[int]]:
    """The rows that the first layer of the denoiser with weights of its own computes, call by call."""
    rows: list[int] = []
    (model,) = denoisers(pipe)
    layer = next(part for part in model.modules() if isinstance(part, (torch.nn.Conv2d, torch.nn.Linear)))
    handle = layer.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    yield rows
    handle.remove()


def check(result: BestOfNResult, pipe: Any, arguments: dict[str, Any], place: int, prompt: str = PROMPT) -> None:
    """The image is that of an unbroken run of the candidate, whose score at `place` was the highest."""
    best = max(result.candidates, key=lambda candidate: candidate.scores[place])
    assert result.seeds == [best.seed]
    assert best.left_at is None
    full = plain(pipe, [candidate.seed for candidate in result.candidates], arguments, "np")
    expected = 255 * full[result.candidates.index(best)]
    assert abs(np.asarray(result.images[0]).astype(float) - expected).max() <= LEVELS


def test_of_every_family(family: Family, family_folder: Path) -> None:
    pipe, arguments = opened(family_folder)
    with counted(pipe) as rows:
        result = BestOfN(pipe, Mean(), n=4, policy="1,3:1r1e9").best(PROMPT, **arguments)
    assert len(result.candidates) == 4
    each = 1 if family.guidance == "embedded" else 2
    assert result.denoiser_calls == 4 * 3 + 2
    assert result.denoiser_rows == each * result.denoiser_calls
    if family.name != "z-image":  # which computes one row after the other
        assert sum(rows) in (result.denoiser_rows, result.denoiser_rows // each * 2)
    check(result, pipe, arguments, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["EulerAncestralDiscrete", "DDPM", "DPMSolverMultistep", "UniPCMultistep", "DEISMultistep"]
)
def test_schedulers_come_to_the_state_that_they_had(sd15_folder: Path, name: str) -> None:
    import diffusers

    pipe, arguments = opened(sd15_folder)
    pipe.scheduler = getattr(diffusers, f"{name}Scheduler").from_config(pipe.scheduler.config)
    result = BestOfN(pipe, Mean(), n=3, policy="1,3:1r1e9").best(PROMPT, **arguments)
    check(result, pipe, arguments, 3)


@pytest.mark.parametrize("reads", ["x0", "x0@2", "cfg_gap"])
def test_scores_that_need_calls(reads: Any) -> None:
    pipe, arguments = opened("shapes")
    policy, scorer = "2,1:2r1e9,3:1", Mean(reads)
    result = BestOfN(pipe, scorer, n=4, policy=policy).best(PROMPT, **arguments)
    best = sorted(result.candidates, key=lambda candidate: -candidate.scores[1])[:2]
    assert result.seeds[0] in {candidate.seed for candidate in best}
    everyone = BestOfN(pipe, Mean(reads), n=4, policy="1:3,3:1").best(PROMPT, **arguments)
    third = {candidate.seed: candidate.scores for candidate in everyone.candidates}
    for candidate in best:
        assert candidate.scores == pytest.approx(third[candidate.seed], abs=1e-3)
    scores = {k: np.array([[c.scores.get(k, -9.0) for c in everyone.candidates]]) for k in (1, 3)}
    chosen, cost = foretold(
        scores, parse_policy(policy), 4, STEPS, Costs(calls_per_score={"x0": 1, "x0@2": 2}.get(reads, 0))
    )
    assert result.seeds == [everyone.candidates[chosen[0]].seed]
    assert result.denoiser_calls == cost[0]


def test_two_stages_at_the_last_step() -> None:
    pipe, arguments = opened("shapes")
    result = BestOfN(pipe, Mean("x0"), n=4, policy=f"2,{STEPS - 1}:2r1e9,{STEPS}:1").best(PROMPT, **arguments)
    scored = [candidate for candidate in result.candidates if STEPS in candidate.scores]
    before = sorted(result.candidates, key=lambda candidate: -candidate.scores[STEPS - 1])
    assert {each.seed for each in scored} == {each.seed for each in before[:2]}
    assert result.seeds == [max(scored, key=lambda candidate: candidate.scores[STEPS]).seed]
    assert result.denoiser_calls == 4 * STEPS


def test_several_prompts_several_images_and_an_engine() -> None:
    pipe, arguments = opened("shapes")
    prompts = [PROMPT, "three green stars", "one white circle left of two blue squares"]
    settings: dict[str, Any] = {"n": 4, "policy": "2,2:2r0,4:2r9"}
    bestofn = BestOfN(pipe, Mean(), keep=2, **settings)
    alone = [bestofn.best(prompt, str(number), **arguments) for number, prompt in enumerate(prompts)]
    together = bestofn.best_each(prompts, ["0", "1", "2"], **arguments)
    with Engine(pipe, Mean(), keep=2, **settings, **arguments) as engine:
        served = list(engine.map(prompts, ["0", "1", "2"]))
    for one, other, third in zip(alone, together, served, strict=True):
        assert one.seeds == other.seeds == third.seeds
        assert len(one.seeds) == 2
        assert one.denoiser_calls == other.denoiser_calls == third.denoiser_calls
        for image, same in zip(one.images, third.images, strict=True):
            assert abs(np.asarray(image).astype(int) - np.asarray(same)).max() <= LEVELS


def test_prompts_wait_for_each_other_and_end_in_one_batch() -> None:
    pipe, arguments = opened("shapes")
    prompts = [f"{count} green stars" for count in ("one", "two", "three", "four", "five", "six")]
    settings: dict[str, Any] = {"n": 4, "policy": "1,2:1r0"}
    alone = [BestOfN(pipe, Mean(), **settings).best(prompt, **arguments) for prompt in prompts]
    drawn = [len(result.candidates) for result in alone]
    assert 1 in drawn
    assert max(drawn) > 1
    with counted(pipe) as rows:
        together = BestOfN(pipe, Mean(), **settings).best_each(prompts, **arguments)
    for one, other in zip(alone, together, strict=True):
        assert (one.seeds, one.denoiser_calls) == (other.seeds, other.denoiser_calls)
        assert [each.left_at for each in one.candidates] == [each.left_at for each in other.candidates]
        assert abs(np.asarray(one.images[0]).astype(int) - np.asarray(other.images[0])).max() <= LEVELS
    assert rows[-3:] == [2 * len(prompts)] * 3
    assert len(rows) == 2 * max(drawn) + 3


def test_progress_begins_where_a_candidate_stopped() -> None:
    pipe, arguments = opened("shapes")
    reports: list[Progress] = []
    with Engine(pipe, Mean(), "1,2:1r1e9", n=3, **arguments) as engine:
        result = engine.submit(PROMPT, progress=reports.append).result()
    assert result.candidates[-1].left_at == 2  # another one was recalled
    assert [report.position for report in reports] == [1, 1, 1, 3, 4, 5]
    assert all(len(report.living) == 1 for report in reports)


def test_a_stack_keeps_what_it_saw_of_those_that_stopped(tmp_path: Path) -> None:
    pipe, arguments = opened("shapes")
    weights: dict[int, Any] = {1: ((1.0,),), 2: ((1.0,), (0.0,)), 4: ((1.0,), (1.0,), (1.0,))}
    config = StackConfig(models=("mean",), positions=(1, 2, 4), steps=STEPS, reference="clip", weights=weights)
    (tmp_path / "config.json").write_text(config.model_dump_json())
    stack = StackScorer(tmp_path, "stack", lambda _: Mean())
    result = BestOfN(pipe, stack, n=3, policy="1,2:1r1e9").best(PROMPT, **arguments)
    check(result, pipe, arguments, 2)


def test_what_the_denoiser_answered_is_kept_for_those_that_may_return_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from nbench.sampling import bestofn

    pipe, arguments = opened("shapes")
    tasks: list[Any] = []
    monkeypatch.setattr(bestofn, "result_of", lambda task, *_: tasks.append(task))
    BestOfN(pipe, Mean(), n=3, policy="1,2:1r1e9").best(PROMPT, **arguments)
    (task,) = tasks
    assert {number: len(kept) for number, kept in task.answers.items()} == {
        number: 2 for number in range(3) if number not in task.waves.selected()
    }
    tasks.clear()
    BestOfN(pipe, Mean(), n=3, policy="2:1").best(PROMPT, **arguments)
    assert not tasks[0].answers
