"""Requests that share batches get what each gets alone; one that fails or is cancelled harms no other."""

from __future__ import annotations

import functools
import threading
from concurrent.futures import CancelledError, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nbench
from nbench.errors import NbenchError
from nbench.sampling.bestofn import BestOfN, BestOfNResult
from nbench.sampling.engine import Engine
from nbench.sampling.engine_loop import ACTIVATIONS
from nbench.sampling.engine_queue import QueueFull
from nbench.sampling.pruned_batch import Progress

from ..tiny_pipelines import Family
from .live import PROMPT, STEPS, Mean, opened, plain, state

LEVELS = 1
POLICY = "2:2,4:1"
PROMPTS = ["one red circle", "one blue star", "two green squares above one white star"]


def assert_same(result: BestOfNResult, alone: BestOfNResult) -> None:
    assert result.seeds == alone.seeds
    assert (result.denoiser_rows, result.full_denoiser_rows) == (alone.denoiser_rows, alone.full_denoiser_rows)
    for candidate, other in zip(result.candidates, alone.candidates, strict=True):
        assert candidate.scores == pytest.approx(other.scores, abs=1e-4)
        assert candidate.left_at == other.left_at
    for image, other_image in zip(result.images, alone.images, strict=True):
        assert abs(np.asarray(image).astype(int) - np.asarray(other_image)).max() <= LEVELS


def test_requests_of_every_family_get_what_each_gets_alone(family: Family, family_folder: Path) -> None:
    pipe, arguments = opened(family_folder)
    alone = [BestOfN(pipe, Mean(), 3, "2:2,4:1").best(prompt, **arguments) for prompt in PROMPTS]
    before, sizes = state(pipe), list[int]()
    model = getattr(pipe, "unet", None) or pipe.transformer
    handle = model.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(len((*args, *kwargs.values())[0])), with_kwargs=True
    )
    with Engine(pipe, Mean(), POLICY, n=3, max_batch=5, **arguments) as engine:
        results = list(engine.map(PROMPTS))
    handle.remove()
    for result, expected in zip(results, alone, strict=True):
        assert_same(result, expected)
    stats, each = engine.stats, 1 if family.guidance == "embedded" else 2
    assert (stats.finished, stats.failed, stats.cancelled, stats.waiting, stats.running) == (3, 0, 0, 0, 0)
    assert stats.rows == sum(result.denoiser_rows for result in results)
    assert max(sizes) <= 5 * each
    assert state(pipe) == before
    # prompts of other lengths join where their embeddings are equally long
    joined = stats.batches < stats.calls
    assert joined or stats.alone


@pytest.fixture
def tiny(sd15_folder: Path) -> tuple[Any, dict[str, Any]]:
    return opened(sd15_folder)


def test_two_batches_at_a_time_give_the_same(tiny: tuple[Any, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The first two batches wait for each other; the requests, each a call of its own, then share both lanes."""
    pipe, arguments = tiny
    alone = [BestOfN(pipe, Mean(), 3, POLICY, seed=i).best(PROMPT, **arguments) for i in range(6)]
    forward, both, first = type(pipe.unet).forward, threading.Barrier(2), iter(range(2))

    @functools.wraps(forward)
    def waits(*args: Any, **kwargs: Any) -> Any:
        if next(first, None) is not None:
            both.wait(60)
        return forward(*args, **kwargs)

    monkeypatch.setattr(type(pipe.unet), "forward", waits)
    monkeypatch.setattr("nbench.sampling.engine_loop.lanes_of", lambda *_: 2)
    with Engine(pipe, Mean(), POLICY, n=3, max_batch=18, **arguments) as engine:
        with engine._loop.changed:
            futures = [engine.submit(PROMPT, seed=seed, eta=seed / 1e9) for seed in range(6)]
        for future, expected in zip(futures, alone, strict=True):
            assert_same(future.result(), expected)
    assert engine.stats.rows == sum(future.result().denoiser_rows for future in futures)
    assert engine.stats.batches < engine.stats.calls


def test_prompts_of_a_list_begin_together(tiny: tuple[Any, dict[str, Any]]) -> None:
    pipe, arguments = tiny
    with Engine(pipe, Mean(), "2:1", n=2, max_batch=24, **arguments) as engine:
        for _ in engine.map([PROMPT] * 6):
            pass
        assert engine.stats.calls == STEPS


def test_the_next_prompts_take_the_rows_of_what_is_dropped(tiny: tuple[Any, dict[str, Any]]) -> None:
    pipe, arguments = tiny
    sizes: list[int] = []
    pipe.unet.register_forward_hook(lambda module, args, output: sizes.append(len(args[0])))
    with Engine(pipe, Mean(), "2:1", n=3, max_batch=4, **arguments) as engine:
        for _ in engine.map(["one red circle", "one red star"]):
            pass
    # three candidates; then one beside three, first alone and joined, as a check; then one beside one, then one
    assert sizes == [6, 6, 2, 6, 8, 8, 4, 2, 2]
    assert (engine.stats.calls, engine.stats.batches) == (10, 8)


@pytest.mark.parametrize("scheduler", ["EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_schedulers_keep_a_state_of_their_own(tiny: tuple[Any, dict[str, Any]], scheduler: str) -> None:
    """Both draw noise or keep earlier predictions; requests differ in seed, size and number of steps too."""
    import diffusers

    pipe, arguments = tiny
    pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    others: list[dict[str, Any]] = [{}, {"height": 24, "width": 16}, {"num_inference_steps": 7}]
    alone = [
        BestOfN(pipe, Mean(), 3, POLICY, seed=seed).best(PROMPT, **{**arguments, **other})
        for seed, other in enumerate(others)
    ]
    with Engine(pipe, Mean(), POLICY, n=3, **arguments) as engine:
        futures = [engine.submit(PROMPT, seed=seed, **other) for seed, other in enumerate(others)]
        for future, expected in zip(futures, alone, strict=True):
            assert_same(future.result(), expected)
    assert "shapes or arguments differ" in engine.stats.alone


class Picky(Mean):
    """Fails on a prompt that says so."""

    def score(self, inputs: torch.Tensor, prompts: Any) -> torch.Tensor:
        if any("bad" in prompt for prompt in prompts):
            raise ZeroDivisionError
        return super().score(inputs, prompts)


def test_what_fails_or_is_cancelled_harms_no_other(tiny: tuple[Any, dict[str, Any]]) -> None:
    pipe, arguments = tiny
    prompts = [f"one {'bad' if i % 4 == 1 else 'red'} circle" for i in range(12)]
    alone = BestOfN(pipe, Mean(), 3, POLICY).best(prompts[0], "p", **arguments)
    futures: list[Any] = []

    def cancels(progress: Progress) -> None:
        if progress.position == 3:
            assert futures[2].cancel()

    def fails(progress: Progress) -> None:
        raise LookupError("no such listener")

    listeners = {2: cancels, 3: fails}
    with Engine(pipe, Picky(), POLICY, n=3, max_batch=15, **arguments) as engine:
        with engine._loop.changed:  # so that all are submitted before the first begins
            futures += [engine.submit(prompt, "p", progress=listeners.get(i)) for i, prompt in enumerate(prompts)]
            futures[4].cancel()
        wait(futures)
    for i, future in enumerate(futures):
        if i in (2, 4):
            with pytest.raises(CancelledError):
                future.result()
        elif i % 4 == 1:
            with pytest.raises(NbenchError, match="scorer mean: score raises ZeroDivisionError"):
                future.result()
        elif i == 3:
            with pytest.raises(NbenchError, match="no such listener"):
                future.result()
        else:
            assert_same(future.result(), alone)
    assert (engine.stats.finished, engine.stats.failed, engine.stats.cancelled) == (6, 4, 2)


def test_progress_tells_each_position(tiny: tuple[Any, dict[str, Any]]) -> None:
    pipe, arguments = tiny
    reports: list[Progress] = []
    with Engine(pipe, Mean(), POLICY, n=3, **arguments) as engine:
        result = engine.submit(PROMPT, progress=reports.append).result()
    assert [report.position for report in reports] == list(range(1, STEPS + 1))
    assert [len(report.living) for report in reports] == [3, 2, 2, 1, 1]
    assert reports[1].scores == {i: candidate.scores[2] for i, candidate in enumerate(result.candidates)}
    assert reports[-1].steps == STEPS


def test_a_prompt_that_no_tokenizer_takes_harms_no_other(tiny: tuple[Any, dict[str, Any]]) -> None:
    pipe, arguments = tiny
    alone = BestOfN(pipe, Mean(), 3, POLICY).best(PROMPT, **arguments)
    with Engine(pipe, Mean(), POLICY, n=3, **arguments) as engine:
        for prompt in (["one star"], None, 3):
            with pytest.raises(NbenchError, match="is not a prompt: give one text"):
                engine.submit(prompt)  # type: ignore[arg-type]
        with pytest.raises(NbenchError, match="'one star' is one prompt"):
            next(engine.map("one star"))
        with pytest.raises(NbenchError, match="1 prompt ids for 2 prompts"):
            next(engine.map(PROMPTS[:2], ["a"]))
        with engine._loop.changed:  # so that they wait together
            futures = [engine.submit(prompt) for prompt in (PROMPT, "one \ud800 star", PROMPT)]
        with pytest.raises(NbenchError, match="StableDiffusionPipeline does not run"):
            futures[1].result()
        for future in futures[::2]:
            assert_same(future.result(), alone)


def test_each_request_has_its_own_control_image(tiny: tuple[Any, dict[str, Any]]) -> None:
    """Images that are printed alike, as tensors show the numbers at their edges only."""
    from diffusers import ControlNetModel, StableDiffusionControlNetPipeline

    pipe, arguments = tiny
    torch.manual_seed(0)
    control = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(8, 16))
    for values in control.parameters():
        values.data += torch.randn_like(values) * 0.3  # what is new of it is zero
    pipe = StableDiffusionControlNetPipeline(**pipe.components, controlnet=control, requires_safety_checker=False)
    first, arguments = torch.rand(1, 3, 32, 32), arguments | {"height": 32, "width": 32}
    second = first.clone()
    second[..., 4:28, 4:28] = 1 - second[..., 4:28, 4:28]
    assert repr(first) == repr(second)
    with Engine(pipe, Mean(), POLICY, n=3, **arguments) as engine:
        with engine._loop.changed:  # so that both may start as one call
            futures = [engine.submit(PROMPT, image=image) for image in (first, second)]
        results = [future.result() for future in futures]
    for image, result in zip((first, second), results, strict=True):
        expected = plain(pipe, result.seeds, {**arguments, "image": image}, output_type="np")[0]
        assert abs(np.asarray(result.images[0]) - (expected * 255).round()).max() <= LEVELS


def test_the_queue_is_bounded_and_a_closed_engine_refuses(tiny: tuple[Any, dict[str, Any]]) -> None:
    pipe, arguments = tiny
    with pytest.raises(NbenchError, match="a queue of 0 holds no request"):
        Engine(pipe, Mean(), POLICY, n=3, queue=0, **arguments)
    with pytest.raises(NbenchError, match="max_batch 0 is less"):
        Engine(pipe, Mean(), POLICY, n=3, max_batch=0, **arguments)
    with Engine(pipe, Mean(), POLICY, n=3, max_batch=3, queue=2, **arguments) as engine:
        with engine._loop.changed:
            futures = [engine.submit(PROMPT) for _ in range(2)]
            with pytest.raises(QueueFull, match="2 requests are waiting, as many as the queue holds"):
                engine.submit(PROMPT)
        assert len(list(engine.map([PROMPT] * 4))) == 4  # waits for room
        with pytest.raises(NbenchError, match="has no argument colour"):
            engine.submit(PROMPT, colour=1)
        with pytest.raises(NbenchError, match=r"not in 0\.\.3"):
            engine.submit(PROMPT, num_inference_steps=3)
    assert all(future.done() for future in futures)
    with pytest.raises(NbenchError, match="the engine is closed"):
        engine.submit(PROMPT)


def test_an_error_in_the_block_cancels_what_is_left(tiny: tuple[Any, dict[str, Any]]) -> None:
    pipe, arguments = tiny
    futures: list[Any] = []

    def breaks(engine: Engine) -> None:
        with engine, engine._loop.changed:
            futures.extend(engine.submit(PROMPT) for _ in range(9))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        breaks(Engine(pipe, Mean(), POLICY, n=3, max_batch=3, **arguments))
    assert all(future.done() for future in futures)
    assert sum(future.cancelled() for future in futures) >= 6


@pytest.mark.parametrize("cancel", [False, True])
def test_a_callback_closes_the_engine(tiny: tuple[Any, dict[str, Any]], cancel: bool) -> None:
    pipe, arguments = tiny
    engine = Engine(pipe, Mean(), POLICY, n=3, max_batch=3, **arguments)
    with engine._loop.changed:
        first = engine.submit(PROMPT, progress=lambda _: engine.close(cancel))
        others = [engine.submit(PROMPT) for _ in range(3)]
    engine._loop._thread.join(60)
    assert [future.cancelled() for future in (first, *others)] == [cancel] * 4
    engine.close()  # for those who wait
    assert not engine._loop._thread.is_alive()


def test_two_threads_share_an_engine_but_not_a_best_of_n(tiny: tuple[Any, dict[str, Any]]) -> None:
    pipe, arguments = tiny
    scoring, go_on = threading.Event(), threading.Event()

    class Waits(Mean):
        def score(self, inputs: torch.Tensor, prompts: Any) -> torch.Tensor:
            scoring.set()
            assert go_on.wait(60)
            return super().score(inputs, prompts)

    bestofn, results = BestOfN(pipe, Waits(), 3, POLICY), list[BestOfNResult]()
    thread = threading.Thread(target=lambda: results.append(bestofn.best(PROMPT, **arguments)))
    thread.start()
    assert scoring.wait(60)
    with pytest.raises(NbenchError, match="StableDiffusionPipeline is in use by another thread or engine"):
        bestofn.best(PROMPT, **arguments)
    with pytest.raises(NbenchError, match="in use by another thread or engine"):
        Engine(pipe, Mean(), POLICY, n=3, **arguments)
    go_on.set()
    thread.join()
    with Engine(pipe, Mean(), POLICY, n=3, **arguments) as engine:
        with pytest.raises(NbenchError, match="in use by another thread or engine"):
            bestofn.best(PROMPT, **arguments)
        shared: list[BestOfNResult] = []
        threads = [threading.Thread(target=lambda: shared.append(engine.submit(PROMPT).result())) for _ in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    for result in shared:
        assert_same(result, results[0])


def test_waves_budgets_and_several_images(tiny: tuple[Any, dict[str, Any]]) -> None:
    pipe, arguments = tiny
    settings: dict[str, Any] = {"restart": 1e9, "budget": 23}
    alone = BestOfN(pipe, Mean(), 3, "2:1", **settings).best(PROMPT, **arguments)
    several = BestOfN(pipe, Mean(), 3, "2:1", keep=2, **settings).best(PROMPT, **arguments)
    with Engine(pipe, Mean(), "2:1", n=3, max_batch=6, **settings, **arguments) as engine:
        futures = [engine.submit(PROMPT), engine.submit(PROMPT, keep=2), engine.submit(PROMPT)]
        for future, expected in zip(futures, (alone, several, alone), strict=True):
            assert_same(future.result(), expected)


def test_activations_are_read_from_one_call_at_a_time(tiny: tuple[Any, dict[str, Any]]) -> None:
    pipe, arguments = tiny
    alone = [BestOfN(pipe, Mean("activations:mid_block"), 3, POLICY).best(p, **arguments) for p in PROMPTS]
    with Engine(pipe, Mean("activations:mid_block"), POLICY, n=3, **arguments) as engine:
        with engine._loop.changed:
            futures = [engine.submit(prompt, guidance_scale=7.5 + i / 1e6) for i, prompt in enumerate(PROMPTS)]
        for future, expected in zip(futures, alone, strict=True):
            assert future.result().seeds == expected.seeds
    assert engine.stats.alone == {ACTIVATIONS: 2}
    assert engine.stats.calls == engine.stats.batches


@pytest.mark.parametrize("reads", ["cfg_gap", "x0_image", "x0@2", "image"])
def test_signals_and_decoded_images(tiny: tuple[Any, dict[str, Any]], reads: Any) -> None:
    pipe, arguments = tiny
    policy = f"{STEPS}:1" if reads == "image" else POLICY
    alone = [BestOfN(pipe, Mean(reads), 3, policy).best(prompt, **arguments) for prompt in PROMPTS[:2]]
    with Engine(pipe, Mean(reads), policy, n=3, **arguments) as engine:
        with engine._loop.changed:
            futures = [engine.submit(prompt, eta=i / 1e9) for i, prompt in enumerate(PROMPTS[:2])]  # two calls
        for future, expected in zip(futures, alone, strict=True):
            assert_same(future.result(), expected)
    assert engine.stats.batches < engine.stats.calls


def test_a_function_is_a_scorer(tiny: tuple[Any, dict[str, Any]]) -> None:
    pipe, arguments = tiny
    alone = BestOfN(pipe, Mean("x0"), 3, POLICY).best(PROMPT, **arguments)
    with Engine(pipe, lambda inputs, _: inputs.flatten(1).mean(1), POLICY, n=3, reads="x0", **arguments) as engine:
        assert_same(engine.submit(PROMPT).result(), alone)


def test_the_embedded_world_by_name(world: Any) -> None:
    with nbench.Engine(world, "noisyclip", "2:1", n=3, num_inference_steps=4, guidance_scale=7.0) as engine:
        first, second = engine.map([PROMPT, "one green star"], ["a", "b"])
    expected = BestOfN(world, "noisyclip", 3, "2:1").best(PROMPT, "a", num_inference_steps=4, guidance_scale=7.0)
    assert first.seeds == expected.seeds
    assert second.images[0].size == (32, 32)
    assert 0 < first.scorer_seconds < first.seconds


@pytest.mark.parametrize(("count", "lanes"), [(60, 1), (60, 2), pytest.param(500, 2, marks=pytest.mark.slow)])
def test_no_request_is_lost(
    tiny: tuple[Any, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, count: int, lanes: int
) -> None:
    """From four threads, with one in twenty cancelled when another one ends and one in twenty failing."""
    pipe, arguments = tiny
    monkeypatch.setattr("nbench.sampling.engine_loop.lanes_of", lambda *_: lanes)
    kinds = np.random.default_rng(0).choice(["good", "bad", "cancelled"], count, p=[0.9, 0.05, 0.05])
    assert set(kinds) == {"good", "bad", "cancelled"}
    futures: dict[int, Any] = {}

    def submits(first: int, engine: Engine) -> None:
        for i in range(first, len(kinds), 4):
            prompt = f"one {'bad' if kinds[i] == 'bad' else 'red'} circle"
            futures[i] = engine.submit(prompt, str(i))
            if kinds[i] == "cancelled":
                futures[max(first, i - 4)].add_done_callback(lambda _, i=i: futures[i].cancel())

    with Engine(pipe, Picky(), POLICY, n=3, max_batch=12, queue=count, **arguments) as engine:
        threads = [threading.Thread(target=submits, args=(first, engine)) for first in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait(futures.values())
    outcomes = ["cancelled" if (future := futures[i]).cancelled() else future.exception() for i in range(len(kinds))]
    for kind, outcome in zip(kinds, outcomes, strict=True):
        if kind == "good":
            assert outcome is None
        elif kind == "bad":
            assert isinstance(outcome, NbenchError)
    stats = engine.stats
    assert (stats.finished + stats.failed + stats.cancelled, stats.running, stats.waiting) == (count, 0, 0)
    assert stats.failed == (kinds == "bad").sum()
