"""Latents brought into [B, C, H, W], and noise that is the same in every type."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch

from nbench.errors import NbenchError
from nbench.pipelines.find import load_pipeline, resolve_pipeline
from nbench.pipelines.latent_layout import LatentLayout, float32_noise, unpack

from ..tiny_pipelines import Family


@pytest.mark.parametrize("size", [(8, 8), (4, 8), (8, 4), (2, 18)])
def test_unpacking_is_that_of_the_pipelines(size: tuple[int, int]) -> None:
    latents, (height, width) = torch.randn(2, 4, *size), size
    for kind in (diffusers.FluxPipeline, diffusers.QwenImagePipeline, diffusers.ChromaPipeline):
        packed = kind._pack_latents(latents, 2, 4, height, width)
        assert torch.equal(unpack(packed, size), latents)
        theirs = kind._unpack_latents(packed, height * 8, width * 8, vae_scale_factor=8)
        assert torch.equal(unpack(packed, size), theirs.reshape(latents.shape))
    if height == width:
        assert torch.equal(unpack(packed), latents)


def test_flux2_packs_the_same_patches() -> None:
    latents, kind = torch.randn(2, 4, 4, 8), diffusers.Flux2Pipeline
    assert torch.equal(unpack(kind._pack_latents(kind._patchify_latents(latents)), (4, 8)), latents)


def test_tokens_of_no_image() -> None:
    with pytest.raises(NbenchError, match="packed latents of 15 tokens are not square"):
        unpack(torch.zeros(1, 15, 16))
    with pytest.raises(NbenchError, match="packed latents of 16 tokens are not 4x8"):
        unpack(torch.zeros(1, 16, 16), (4, 8))
    with pytest.raises(NbenchError, match="not square"):
        unpack(torch.zeros(1, 16, 15))


def test_a_frame_axis_goes_several_frames_are_refused() -> None:
    layout, latents = LatentLayout(SimpleNamespace()), torch.randn(2, 4, 6, 8)
    assert torch.equal(layout.chw(latents), latents)
    assert torch.equal(layout.chw(latents[:, :, None]), latents)
    assert torch.equal(layout.chw(latents[:, None]), latents)
    with pytest.raises(NbenchError, match="several frames"):
        layout.chw(torch.zeros(1, 4, 3, 8, 8))


def test_a_size_is_seen_and_the_pipeline_left_as_it_was() -> None:
    class Pipe:
        vae_scale_factor = 2

        def prepare_latents(self, batch: int, channels: int, height: int, width: int) -> None: ...

    pipe = Pipe()
    layout = LatentLayout(pipe)
    with layout:
        pipe.prepare_latents(1, 4, 8, width=16)
        assert vars(pipe)
    assert layout.chw(torch.zeros(1, 8, 16)).shape == (1, 4, 4, 8)
    with pytest.raises(ZeroDivisionError), layout:
        raise ZeroDivisionError
    assert not vars(pipe)


def test_noise_is_that_of_the_stock_pipeline_and_in_half_precision_its_rounding(
    family: Family, family_folder: Path
) -> None:
    entry = resolve_pipeline(str(family_folder))

    def first(dtype: str, wide: bool) -> torch.Tensor:
        pipe, samples = load_pipeline(entry, dtype, "cpu"), []
        original = pipe.scheduler.step

        def step(model_output: Any, timestep: Any, sample: torch.Tensor, **rest: Any) -> Any:
            samples.append(sample.clone())
            return original(model_output, timestep, sample, **rest)

        pipe.scheduler.step = step
        arguments = {"num_inference_steps": 2, "output_type": "latent", **family.batched(2)}
        generator = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
        if wide:
            with float32_noise(pipe):
                pipe(["one red circle", "two blue squares"], generator=generator, **arguments)
        else:
            pipe(["one red circle", "two blue squares"], generator=generator, **arguments)
        return samples[0]

    stock = first("float32", wide=False)
    assert torch.equal(first("float32", wide=True), stock)
    half = first("bfloat16", wide=True)
    assert torch.allclose(half.float(), stock, rtol=2**-8)
