"""Best-of-N selects as scoring all candidates does, gives the same images, and computes the rows of the policy."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nbench
from nbench.builders.build import build
from nbench.builders.config import BuildConfig
from nbench.errors import NbenchError
from nbench.pipelines.find import resolve_pipeline
from nbench.pipelines.schedulers import swapped
from nbench.pipelines.step_tap import own_noise
from nbench.pipelines.watch import Watch
from nbench.sampling.bestofn import BestOfN
from nbench.shards.reader import open_bench
from nbench.shards.seeds import candidate_seed

from ..tiny_parts import TOKENS
from ..tiny_pipelines import Family, save_sd3, save_z_image
from .live import PROMPT, STEPS, Mean, opened, plain, signals_at, state

LEVELS = 1
"""Tolerance of a survivor's image, of 255 levels: values that agree to 1e-4 may round to neighbouring levels."""


def test_selection_images_and_rows_of_every_family(family: Family, family_folder: Path) -> None:
    pipe, arguments = opened(family_folder)
    result = BestOfN(pipe, Mean(), n=4, policy="2:2,4:1").best(PROMPT, "p1", **arguments)
    seeds = [candidate_seed(0, "p1", number) for number in range(4)]
    scores = {k: latents.flatten(1).mean(1).tolist() for k, latents in signals_at(pipe, seeds, arguments).items()}
    second = sorted(range(4), key=lambda candidate: -scores[2][candidate])[:2]
    winner = max(second, key=lambda candidate: scores[4][candidate])
    assert result.seeds == [seeds[winner]]
    each = 1 if family.guidance == "embedded" else 2
    assert result.denoiser_calls == 4 * 2 + 2 * 2 + 1
    assert (result.denoiser_rows, result.full_denoiser_rows) == (13 * each, 20 * each)
    assert [candidate.seed for candidate in result.candidates] == seeds
    for number, candidate in enumerate(result.candidates):
        assert candidate.scores[2] == pytest.approx(scores[2][number], abs=1e-5)
        assert candidate.left_at == (None if number == winner else 4 if number in second else 2)
    full = plain(pipe, seeds, arguments, output_type="np")[winner]
    error = np.asarray(result.images[0]).astype(float) - (full * 255).round()
    assert abs(error).max() <= LEVELS


def test_plain_best_of_n_by_finished_images(sd15_folder: Path) -> None:
    pipe, arguments = opened(sd15_folder)
    result = BestOfN(pipe, Mean("image"), n=4, policy=f"{STEPS}:1", keep=2).best(PROMPT, **arguments)
    images = plain(pipe, [candidate.seed for candidate in result.candidates], arguments, output_type="np")
    order = np.argsort(-images.mean((1, 2, 3)))
    assert result.seeds == [result.candidates[i].seed for i in order[:2]]
    assert result.denoiser_rows == result.full_denoiser_rows
    for candidate, image in zip(result.candidates, images, strict=True):
        assert candidate.seen is not None
        assert abs(candidate.seen - (image * 255).round()).max() <= LEVELS


def test_a_scorer_of_images_sees_survivors_only(sd15_folder: Path) -> None:
    pipe, arguments = opened(sd15_folder)
    scorer = Mean("image")
    with pytest.raises(NbenchError, match="mean reads finished images, which position 2 does not have: score at 5"):
        BestOfN(pipe, scorer, n=4, policy="2:1").best(PROMPT, **arguments)
    assert not scorer.batches


def test_waves_make_the_same_choice(sd15_folder: Path) -> None:
    pipe, arguments = opened(sd15_folder)
    whole = BestOfN(pipe, Mean(), policy="2:1").best(PROMPT, **arguments)
    waves = BestOfN(pipe, Mean(), policy="2:1", max_batch=2).best(PROMPT, **arguments)
    assert waves.seeds == whole.seeds
    assert [candidate.seed for candidate in waves.candidates] == [candidate.seed for candidate in whole.candidates]
    assert np.abs(np.asarray(waves.images[0]).astype(int) - np.asarray(whole.images[0])).max() <= LEVELS
    assert waves.full_denoiser_rows == whole.full_denoiser_rows
    assert 2 * 6 * 2 + 2 * 3 <= waves.denoiser_rows <= 2 * 3 * (2 * 2 + 3)


def test_budget_restart_and_acceptance_in_a_real_run(sd15_folder: Path) -> None:
    pipe, arguments = opened(sd15_folder)
    bad = BestOfN(pipe, Mean(), n=3, policy="2:1", restart=1e9, budget=23).best(PROMPT, **arguments)
    assert (len(bad.candidates), bad.denoiser_calls) == (9, 6 + 6 + 9)
    assert bad.denoiser_rows == 2 * bad.denoiser_calls
    assert [candidate.left_at for candidate in bad.candidates].count(2) == 8  # the best of all goes on
    good = BestOfN(pipe, Mean(), n=6, max_batch=2, policy="2:1", accept=-1e9).best(PROMPT, **arguments)
    assert (len(good.candidates), good.denoiser_calls) == (2, 2 * 2 + 3)


def test_candidates_of_another_dtype_start_from_the_same_noise(sd15_folder: Path) -> None:
    pipe, arguments = opened(sd15_folder)
    noise: dict[torch.dtype, torch.Tensor] = {}
    for dtype in (torch.float32, torch.bfloat16):
        pipe.to(dtype)
        scorer = Mean()
        BestOfN(pipe, scorer, n=2, policy="1:1", seed=3).best(PROMPT, **arguments)
        noise[dtype] = scorer.batches[0]
    error = noise[torch.float32] - noise[torch.bfloat16]
    assert error.std() < 0.02 * noise[torch.float32].std()


@pytest.mark.slow
def test_several_prompts_at_once_are_as_each_alone() -> None:
    pipe, arguments = opened("shapes")
    prompts = [PROMPT, "three green stars", "one white circle left of two blue squares"]
    bestofn = BestOfN(pipe, "noisyclip", n=3, policy="2:2,4:1")
    together = bestofn.best_each(prompts, ["a", "b", "c"], **arguments)
    for prompt, prompt_id, result in zip(prompts, "abc", together, strict=True):
        alone = bestofn.best(prompt, prompt_id, **arguments)
        assert result.seeds == alone.seeds
        assert (result.denoiser_rows, result.full_denoiser_rows) == (alone.denoiser_rows, alone.full_denoiser_rows)
        for candidate, other in zip(result.candidates, alone.candidates, strict=True):
            assert candidate.scores == pytest.approx(other.scores, abs=1e-3)  # previews have 8 bits
            assert candidate.left_at == other.left_at
        assert abs(np.asarray(result.images[0]).astype(int) - np.asarray(alone.images[0])).max() <= LEVELS
    chunks = BestOfN(pipe, "noisyclip", n=3, policy="2:2,4:1", max_batch=6).best_each(prompts, "abc", **arguments)
    assert [result.seeds for result in chunks] == [result.seeds for result in together]
    # waves of unequal sizes: each prompt's budget ends another wave
    few = BestOfN(pipe, "noisyclip", n=3, policy="2:1", restart=0.1, budget=22).best_each(prompts, "abc", **arguments)
    assert all(result.denoiser_calls <= 22 and len(result.images) == 1 for result in few)


def test_scorers_of_x0_estimates_score_one_step_later(family: Family, family_folder: Path) -> None:
    """With guidance off or on, the scorer reads the estimate at k; a candidate dropped at k has computed step k."""
    pipe, arguments = opened(family_folder)
    scorer = Mean("x0")
    result = BestOfN(pipe, scorer, n=4, policy="0:3,2:1").best(PROMPT, "p1", **arguments)
    each = 1 if family.guidance == "embedded" else 2
    assert (result.denoiser_calls, result.denoiser_rows) == (4 * 1 + 3 * 2 + 1 * 2, 12 * each)
    seeds = [candidate.seed for candidate in result.candidates]
    estimates = signals_at(pipe, seeds, arguments, "x0")
    assert (scorer.batches[0] - estimates[0]).abs().max() <= 1e-4
    living = [i for i, candidate in enumerate(result.candidates) if 2 in candidate.scores]
    assert (scorer.batches[1] - estimates[2][living]).abs().max() <= 1e-3
    assert estimates[2].shape == (4, *scorer.batches[0].shape[1:])
    assert torch.equal(estimates[STEPS], signals_at(pipe, seeds, arguments)[STEPS])  # at T: the finished latent
    # where nothing is left to remove, the last estimate is the outcome
    if "FlowMatch" in type(pipe.scheduler).__name__ or family.name in ("sd15", "sdxl", "sana"):
        assert (estimates[STEPS - 1] - estimates[STEPS]).abs().max() <= 1e-2 * estimates[STEPS].std()


def test_decoded_estimates_and_the_position_are_supplied(family: Family, family_folder: Path) -> None:
    pipe, arguments = opened(family_folder)
    positions: list[Any] = []

    class Conditioned(Mean):
        conditioned = True

        def score(self, inputs: torch.Tensor, prompts: Any, *at: Any) -> torch.Tensor:
            positions.extend(at)
            return super().score(inputs, prompts)

    scorer = Conditioned("x0_image")
    result = BestOfN(pipe, scorer, n=2, policy=f"1:2,{STEPS}:1").best(PROMPT, **arguments)
    assert [at.position for at in positions] == [1, STEPS]
    images = plain(pipe, [candidate.seed for candidate in result.candidates], arguments, output_type="np")
    decoded = scorer.batches[-1].permute(0, 2, 3, 1).numpy()  # at T: the finished latent
    assert abs(decoded - images).max() <= 1e-3


def test_a_run_that_fails_leaves_the_pipeline_as_it_was(sd15_folder: Path) -> None:
    pipe, arguments = opened(sd15_folder)
    plain(pipe, [1], arguments)
    before = state(pipe)

    class Broken(Mean):
        def score(self, inputs: torch.Tensor, prompts: Any) -> torch.Tensor:
            raise ZeroDivisionError

    with pytest.raises(NbenchError, match="scorer mean: score raises ZeroDivisionError"):
        BestOfN(pipe, Broken(), policy="2:1").best(PROMPT, **arguments)
    assert state(pipe) == before


def test_candidates_are_those_of_a_bench(tmp_path: Path) -> None:
    """Equal to the stored float16 latents but for the last bits: a bench runs another batch."""
    bench = build(BuildConfig("genai-bench", out=tmp_path, limit=1, steps=STEPS, latent_dtype="float32", references=()))
    (stored,) = open_bench(bench.out).batches(range(STEPS + 1), images=True)
    pipe, arguments = opened("shapes")
    scorer = Mean()
    assert stored.images is not None
    result = BestOfN(pipe, scorer, policy="2:3", keep=3).best(stored.prompts[0], stored.prompt_ids[0], **arguments)
    assert [candidate.seed for candidate in result.candidates] == stored.seeds
    assert abs(scorer.batches[0].numpy() - stored.latents[2]).max() <= 1e-4
    for seed, image in zip(result.seeds, result.images, strict=True):
        error = np.asarray(image).astype(int) - stored.images[stored.seeds.index(seed)]
        assert abs(error).max() <= LEVELS


def test_a_policy_may_draw_fewer(sd15_folder: Path) -> None:
    pipe, arguments = opened(sd15_folder)
    few, alone = (
        BestOfN(pipe, Mean(), n=n, policy=policy).best(PROMPT, **arguments) for n, policy in ((6, "3,2:1"), (3, "2:1"))
    )
    assert [candidate.seed for candidate in few.candidates] == [candidate.seed for candidate in alone.candidates]
    assert (few.seeds, few.denoiser_rows) == (alone.seeds, alone.denoiser_rows)
    assert (few.full_denoiser_rows, alone.full_denoiser_rows) == (2 * 6 * STEPS, 2 * 3 * STEPS)  # saved of all six
    with pytest.raises(NbenchError, match="cannot draw 7 of 6"):
        BestOfN(pipe, Mean(), policy="7,2:1").best(PROMPT, **arguments)
    with pytest.raises(NbenchError, match="draw 1 or more"):
        BestOfN(pipe, Mean(), n=0, policy="2:1").best(PROMPT, **arguments)


def test_no_prompts_have_no_images_and_what_is_no_number_is_null(sd15_folder: Path) -> None:
    pipe, arguments = opened(sd15_folder)

    class Lost(Mean):
        def score(self, inputs: torch.Tensor, prompts: Any) -> torch.Tensor:
            return super().score(inputs, prompts) * torch.tensor([math.nan, 1.0])

    bestofn = BestOfN(pipe, Lost(), n=2, policy="2:1")
    assert bestofn.best_each([], **arguments) == []
    result = bestofn.best(PROMPT, **arguments)
    assert result.seeds == [result.candidates[1].seed]
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["candidates"][0]["scores"] == {"2": None}


@pytest.mark.parametrize(
    ("save", "guidance"),
    [
        (save_z_image, {"cfg_truncation": 0.5, "height": 16, "width": 16, "max_sequence_length": TOKENS}),
        (save_sd3, {"skip_guidance_layers": [0], "skip_layer_guidance_start": 0.5, "skip_layer_guidance_stop": 1.0}),
    ],
)
def test_rows_where_guidance_is_on_for_some_of_the_steps(save: Any, guidance: dict[str, Any], tmp_path: Path) -> None:
    """What the stock pipeline computes for a candidate, counted at the denoiser, is what each of n would take."""
    pipe, arguments = opened(save(tmp_path))
    arguments |= guidance
    result = BestOfN(pipe, Mean(), n=4, policy="2:1").best(PROMPT, **arguments)
    rows: list[int] = []
    handle = pipe.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(len((*args, *kwargs.values())[0])), with_kwargs=True
    )
    plain(pipe, result.seeds, arguments)
    handle.remove()
    assert len(set(rows)) > 1 or len(rows) > STEPS
    assert result.full_denoiser_rows == 4 * sum(rows)
    assert result.denoiser_rows < result.full_denoiser_rows


def test_other_prompts_may_be_lists_of_one(sd15_folder: Path) -> None:
    pipe, arguments = opened(sd15_folder)
    bestofn, ugly = BestOfN(pipe, Mean(), n=3, policy="2:1"), "a blue star"
    result, _ = bestofn.best_each([PROMPT, "one star"], negative_prompt=[ugly], **arguments)
    expected = plain(pipe, result.seeds, {**arguments, "negative_prompt": ugly}, output_type="np")[0]
    assert abs(np.asarray(result.images[0]) - (expected * 255).round()).max() <= LEVELS


def test_prompts_that_are_not_a_list_of_texts(sd15_folder: Path) -> None:
    pipe, arguments = opened(sd15_folder)
    bestofn = BestOfN(pipe, Mean(), n=2, policy="2:1")
    with pytest.raises(NbenchError, match=r"'one star' is one prompt, not a list of them: write \[prompt\]"):
        bestofn.best_each("one star", **arguments)
    with pytest.raises(NbenchError, match=r"\['a', 'b'\] is not a prompt: give one text, or several to best_each"):
        bestofn.best(["a", "b"], **arguments)  # type: ignore[arg-type]
    with pytest.raises(NbenchError, match="1 prompt ids for 2 prompts: give one for each"):
        bestofn.best_each(["a", "b"], ["a"], **arguments)


def test_a_callback_that_interrupts_the_run_is_named(sd15_folder: Path) -> None:
    pipe, arguments = opened(sd15_folder)

    def interrupts(pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = step == 2
        return values

    bestofn = BestOfN(pipe, Mean(), n=2, policy="2:1")
    with pytest.raises(NbenchError, match="ended after 3 of 5 steps, without finished images: leave out the callback"):
        bestofn.best(PROMPT, callback_on_step_end=interrupts, **arguments)
    assert len(bestofn.best(PROMPT, **arguments).images) == 1


def test_the_embedded_world_by_name() -> None:
    pipe, arguments = opened("shapes")
    result = nbench.BestOfN(pipe, "noisyclip", n=3, policy="2:1").best(PROMPT, **arguments)
    assert set(result.to_dict()) == {
        "selected",
        "candidates",
        "denoiser_rows",
        "full_denoiser_rows",
        "seconds",
        "scorer_seconds",
    }
    assert 0 < result.scorer_seconds < result.seconds
    assert result.images[0].size == (32, 32)
    assert all(candidate.seen is not None for candidate in result.candidates)


def test_a_scorer_by_name_must_fit_later_calls_of_other_sizes_too(world: Any) -> None:
    called: dict[str, Any] = {"num_inference_steps": 2, "max_sequence_length": 1}
    smaller = called | {"height": 16, "width": 16}
    chooser = BestOfN(world, "noisyclip", n=2, policy="1:1")
    assert len(chooser.best(PROMPT, **called).images) == 1
    for each in (chooser, BestOfN(world, "noisyclip", n=2, policy="1:1")):
        with pytest.raises(NbenchError, match="no noisyclip weights fit latents of 4x8x8"):
            each.best(PROMPT, **smaller)
    anything = BestOfN(world, "random", n=2, policy="1:1")
    assert [len(anything.best(PROMPT, **arguments).images) for arguments in (called, smaller)] == [1, 1]


def test_what_does_not_fit_is_refused_before_anything_runs(sd15_folder: Path) -> None:
    pipe, arguments = opened(sd15_folder)
    assert resolve_pipeline(str(sd15_folder)).preview is None
    for scorer, policy, kwargs, reason in (
        (Mean(), "20:1", {}, "position 20 not in 0..5"),
        (Mean(), "0:1", {}, "position 0 is pure noise"),
        (Mean("preview"), "2:1", {}, "no preview map"),
        ("noisyclip", "2:1", {}, "no noisyclip weights fit latents of 4x8x8"),
        (Mean(), "2:1", {"latents": None}, "latents is set by BestOfN"),
        (Mean(), "2:1", {"colour": 1}, "StableDiffusionPipeline has no argument colour"),
        (Mean(), "2:1", {"num_inference_steps": None}, "num_inference_steps=None is no number of steps"),
        (Mean(), "2:1", {"num_inference_steps": 5.5}, "num_inference_steps=5.5 is no number of steps"),
    ):
        pipe.unet.forward = None  # would fail if it were called
        with pytest.raises(NbenchError, match=reason):
            BestOfN(pipe, scorer, policy=policy).best(PROMPT, **(arguments | kwargs))
        del pipe.unet.forward


def spoil(pipe: Any, rows: int | list[int]) -> list[int]:
    """Make images of these rows of each decoded batch NaN, all where `rows` is -1; counts what was decoded."""
    decoded: list[int] = []

    def hook(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        decoded.append(len(output))
        output = output.clone()
        output[slice(None) if rows == -1 else rows] = math.nan
        return output

    pipe.vae.decoder.register_forward_hook(hook)
    return decoded


@pytest.mark.parametrize("reads", ["image", "latent"])
def test_an_image_that_is_not_finite_is_never_selected(sd15_folder: Path, reads: Any) -> None:
    pipe, arguments = opened(sd15_folder)
    whole = BestOfN(pipe, Mean(reads), n=4, policy=f"{STEPS}:4", keep=4).best(PROMPT, **arguments)
    best = [one.seed for one in whole.candidates].index(whole.seeds[0])
    spoil(pipe, [best])
    scorer = Mean(reads)
    result = BestOfN(pipe, scorer, n=4, policy=f"{STEPS}:4", keep=4).best(PROMPT, **arguments)
    assert result.seeds == whole.seeds[1:]
    assert np.array_equal(np.asarray(result.images[0]), np.asarray(whole.images[1]))
    assert result.candidates[best].left_at == STEPS
    assert all(inputs.isfinite().all() for inputs in scorer.batches)


def test_none_at_all_is_one_line(sd15_folder: Path) -> None:
    pipe, arguments = opened(sd15_folder)
    decoded = spoil(pipe, -1)
    with pytest.raises(
        NbenchError, match=r"no candidate is left of 'two red .*': image not finite: decode it in float32"
    ):
        BestOfN(pipe, Mean(), n=4, policy="2:1").best(PROMPT, **arguments)
    assert decoded == [1]


def test_others_are_drawn_where_the_accepted_one_is_not_finite(sd15_folder: Path) -> None:
    pipe, arguments = opened(sd15_folder)
    decoded = spoil(pipe, -1)
    with pytest.raises(NbenchError, match="no candidate is left"):
        BestOfN(pipe, Mean(), n=4, policy="2:1", max_batch=2, accept=-100).best(PROMPT, **arguments)
    assert decoded == [1, 1]


def test_particles_go_on_as_copies_of_the_best_and_take_ways_of_their_own() -> None:
    pipe, arguments = opened("shapes")
    with pytest.raises(NbenchError, match="copies of a candidate stay equal"):
        BestOfN(pipe, Mean(), n=3, policy="2:3s1000,5:1").best(PROMPT, **arguments)
    pipe.scheduler = swapped(pipe, "FlowMatchLCM")
    scorer = Mean()
    result = BestOfN(pipe, scorer, n=3, policy="2:3s100000,3:3s1,5:1").best(PROMPT, **arguments)
    plain_scorer = Mean()
    BestOfN(pipe, plain_scorer, n=3, policy="2:3,3:2,5:1").best(PROMPT, **arguments)
    at_two, at_three, _ = scorer.batches
    torch.testing.assert_close(at_two, plain_scorer.batches[0])
    top = int(at_two.flatten(1).mean(1).argmax())
    assert not torch.equal(at_three[(top + 1) % 3], at_three[top])  # new noise since
    torch.testing.assert_close(at_three[top], plain_scorer.batches[1][top], rtol=1e-3, atol=1e-3)
    assert result.denoiser_calls == 3 * STEPS


@pytest.mark.parametrize("scheduler", ["DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"])
def test_a_copy_goes_on_with_what_the_scheduler_kept_of_the_other(sd15_folder: Path, scheduler: str) -> None:
    """Two rows of other noise, but with the same noise on the way, are one from the copy on."""
    import diffusers

    pipe, arguments = opened(sd15_folder)
    pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config, algorithm_type="sde-dpmsolver++")
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def seen(position: int, latents: torch.Tensor, signals: Any) -> None:
        if position == 3:
            watch.copy({1: 0})

    watch = Watch(pipe, lambda _: "nothing", seen)
    alike = [torch.Generator().manual_seed(5) for _ in range(2)]
    with watch, own_noise(pipe, alike):
        images = pipe(
            PROMPT, num_images_per_prompt=2, latents=noise, generator=alike, output_type="latent", **arguments
        ).images
    torch.testing.assert_close(images[1], images[0])
