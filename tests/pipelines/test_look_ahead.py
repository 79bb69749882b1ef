"""Look-ahead estimates equal a loop over a denoiser that runs the coarse steps with a stock scheduler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from nbench.builders.build import build
from nbench.builders.config import BuildConfig
from nbench.errors import NbenchError
from nbench.pipelines.find import load_pipeline, resolve_pipeline
from nbench.pipelines.look_ahead import coarse_positions
from nbench.pipelines.recorder import Recorder
from nbench.shards.reader import open_bench

from ..tiny_pipelines import Family
from .test_signals import TEXTS

STEPS, GUIDANCE = 8, 3.0
SIGNALS = ("latent", "x0", "x0@2", "x0@3")


class _Denoiser:
    """Guided predictions of a pipeline's denoiser, by arguments that a plain call of the pipeline gave it."""

    def __init__(self, pipe: Any) -> None:
        self._model = getattr(pipe, "unet", None) or pipe.transformer
        self._kwargs: dict[str, Any] = {}

    def keep(self, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        self._kwargs = {name: value for name, value in kwargs.items() if name not in ("hidden_states", "timestep")}

    @torch.no_grad()
    def guided(self, latent: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        both = self._model(torch.cat([latent, latent]), timestep=time.expand(2 * len(latent)), **self._kwargs)[0]
        without, prompt = both.chunk(2)
        return without + GUIDANCE * (prompt - without)


def stock(kind: Any, pipe: Any, coarse: list[int], timesteps: Any, sigmas: Any) -> Any:
    """A stock scheduler of `kind` with the noise levels of some positions of a run only, and then 0."""
    scheduler = kind.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(STEPS)
    scheduler.timesteps = torch.stack([timesteps[k] for k in coarse])
    scheduler.sigmas = torch.stack([*(sigmas[k] for k in coarse), torch.tensor(0.0)])
    scheduler._step_index, scheduler.num_inference_steps = 0, len(coarse)
    return scheduler


@pytest.mark.parametrize("name", ["world", "sd15"])
def test_look_ahead_is_a_coarse_run_of_a_stock_scheduler(name: str, world: Any, sd15_folder: Path) -> None:
    """The last of L coarse steps lands on x0: of Euler for the world's flow, and for noise levels as of k-diffusion."""
    flow = name == "world"
    pipe = world if flow else load_pipeline(resolve_pipeline(str(sd15_folder)), "float32", "cpu")
    kind = diffusers.FlowMatchEulerDiscreteScheduler if flow else diffusers.EulerDiscreteScheduler
    original = pipe.scheduler
    pipe.scheduler = kind.from_config(original.config)
    denoiser = _Denoiser(pipe)
    handle = denoiser._model.register_forward_pre_hook(denoiser.keep, with_kwargs=True)
    arguments = resolve_pipeline("shapes").call_kwargs if flow else {}
    try:
        generators = [torch.Generator().manual_seed(i) for i in range(2)]
        with Recorder(pipe, range(STEPS + 1), SIGNALS) as recorder:
            pipe(
                prompt=TEXTS,
                num_inference_steps=STEPS,
                guidance_scale=GUIDANCE,
                generator=generators,
                output_type="latent",
                **arguments,
            )
        timesteps, sigmas = pipe.scheduler.timesteps, pipe.scheduler.sigmas
    finally:
        handle.remove()
        pipe.scheduler = original
    assert sorted(recorder.ahead) == ["x0@2", "x0@3"]
    assert sorted(recorder.ahead["x0@2"]) == list(range(STEPS))
    for calls in (2, 3):
        for position in (0, 2, 5, STEPS - 1):
            coarse = coarse_positions(position, STEPS, calls)
            scheduler, latent = stock(kind, pipe, coarse, timesteps, sigmas), recorder.latents[position]
            for time in scheduler.timesteps:
                given = latent if flow else scheduler.scale_model_input(latent, time)
                latent = scheduler.step(denoiser.guided(given, time), time, latent).prev_sample
            torch.testing.assert_close(recorder.ahead[f"x0@{calls}"][position], latent, rtol=1e-4, atol=2e-4)
    last = STEPS - 1  # no step is left to look ahead by
    torch.testing.assert_close(recorder.ahead["x0@3"][last], recorder.x0[last])
    assert not torch.allclose(recorder.ahead["x0@2"][0], recorder.x0[0], atol=1e-2)


def test_every_family_looks_ahead_or_says_why_not(family: Family, family_folder: Path) -> None:
    pipe = load_pipeline(resolve_pipeline(str(family_folder)), "float32", "cpu")
    generators = [torch.Generator().manual_seed(i) for i in range(2)]

    def run(signals: Any) -> Recorder:
        with Recorder(pipe, range(5), signals) as recorder:
            pipe(prompt=TEXTS, num_inference_steps=4, generator=generators, output_type="latent", **family.batched(2))
        return recorder

    if family.name in REFUSED:
        with pytest.raises(NbenchError, match=f"no look-ahead of several calls here: .*{REFUSED[family.name]}"):
            run(("latent", "x0@2"))
        return
    recorder = run(("latent", "x0", "x0@2"))
    ahead = recorder.ahead["x0@2"]
    assert ahead[0].shape == recorder.x0[0].shape
    torch.testing.assert_close(ahead[3], recorder.x0[3])
    model = getattr(pipe, "unet", None) or pipe.transformer
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


REFUSED = {"z-image": "does not return one tensor", "qwen-image": "no weighted sum"}


def test_rescaled_guidance_is_refused(sd15_folder: Path) -> None:
    pipe = load_pipeline(resolve_pipeline(str(sd15_folder)), "float32", "cpu")
    with Recorder(pipe, [0], ("latent", "x0@2")), pytest.raises(NbenchError, match="guidance_rescale"):
        pipe(TEXTS, num_inference_steps=4, guidance_scale=5.0, guidance_rescale=0.7, output_type="latent")
    assert not pipe.unet._forward_hooks


def test_a_build_keeps_look_ahead(tmp_path: Path) -> None:
    config = BuildConfig(
        "genai-bench", out=tmp_path / "bench", limit=2, candidates=2, steps=6, references=(), positions="1,4",
        signals=("latent", "x0@3", "x0@2", "image"), format="webdataset",
    )  # fmt: skip
    build(config, progress=False)
    bench = open_bench(tmp_path / "bench")
    assert bench.info.signals == ("latent", "x0@2", "x0@3", "image")
    batch = next(bench.batches([1, 4, 6], signals=("latent", "x0@2", "x0@3")))
    assert not batch.x0
    for signal in ("x0@2", "x0@3"):
        assert batch.estimates(signal)[1].shape == batch.latents[1].shape
        np.testing.assert_array_equal(batch.estimates(signal)[6], batch.latents[6])  # the finished latent itself
    assert not np.allclose(batch.estimates("x0@2")[1], batch.estimates("x0@3")[1], atol=1e-3)
