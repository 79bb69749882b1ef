"""Images that are not finite are known as such, and any exception of a pipeline is one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from nbench.builders.build import build
from nbench.builders.config import BuildConfig
from nbench.builders.process.reverse import LoadedPipeline
from nbench.builders.prompts.rows import Prompt
from nbench.errors import NbenchError
from nbench.pipelines.calling import call_pipeline
from nbench.pipelines.find import load_pipeline, resolve_pipeline
from nbench.pipelines.generate import generate
from nbench.pipelines.latent_space import space_of
from nbench.pipelines.options import PipelineOptions
from nbench.pipelines.vae import decode
from nbench.shards.reader import open_bench

from ..tiny_pipelines import Family
from ..tiny_unusual import save_wan
from .conftest import only


def opened(folder: Path, dtype: str = "float32", options: PipelineOptions | None = None) -> Any:
    return load_pipeline(resolve_pipeline(str(folder), options), dtype, "cpu", options)


def spoiled(folder: Path, change: Callable[[Any], None]) -> Path:
    """The pipeline of `folder`, saved again with another VAE."""
    pipe = opened(folder)
    change(pipe.vae)
    pipe.vae.save_pretrained(folder / "vae")
    return folder


def overflowing(vae: Any) -> None:
    """Its first layer's outputs do not fit into float16."""
    vae.decoder.conv_in.weight.data.mul_(1e5)


def first_row(value: float) -> Callable[[Any, Any, Any], Any]:
    """A forward hook which puts `value` into one pixel of the first image."""

    def hook(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[0, 0, 0, 0] = value
        return output

    return hook


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_pixel_that_is_not_finite_is_found_though_the_processor_clamps(sd15_folder: Path, value: float) -> None:
    pipe = opened(sd15_folder)
    pipe.vae.decoder.register_forward_hook(first_row(value))
    called = {"num_inference_steps": 1, "generator": [torch.Generator().manual_seed(seed) for seed in (1, 2)]}
    images = call_pipeline(pipe, prompt=["a", "b"], **called)
    assert images.finite.tolist() == [False, True]
    assert images.values.shape == (2, 16, 16, 3)
    assert "decode" not in vars(pipe.vae)


@only("sd15")
def test_such_rows_fail_and_float32_saves_them(family: Family, tmp_path: Path) -> None:
    folder = spoiled(family.saved(tmp_path / "pipe"), overflowing)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one red circle\ntwo blue squares\n")

    def made(name: str, dtype: str, options: PipelineOptions) -> Any:
        out = tmp_path / name
        config = BuildConfig(
            "genai-bench",
            pipeline=str(folder),
            out=out,
            prompts=prompts,
            steps=2,
            candidates=1,
            references=(),
            dtype=dtype,
            options=options,
        )
        build(config, progress=False)
        return open_bench(out)

    half = made("half", "float16", PipelineOptions())
    errors = {str(row) for rows in half.rows(["error"], 9) for row in rows["error"]}
    assert errors == {"image not finite: decode it in float32 (--vae-dtype float32)"}
    saved = made("saved", "float16", PipelineOptions(vae_dtype="float32"))
    assert saved.n_failed == 0
    assert saved.info.fingerprint != half.info.fingerprint
    image = next(saved.batches([2], images=True)).images
    exact = next(made("exact", "float32", PipelineOptions()).batches([2], images=True)).images
    assert np.abs(image.astype(float) - exact).mean() < 4  # latents were made in float16


@only("sdxl")
def test_estimates_are_decoded_in_float32_where_the_configuration_says_so(family: Family, tmp_path: Path) -> None:
    pipe = opened(spoiled(family.saved(tmp_path), overflowing), "float16")
    assert pipe.vae.config.force_upcast
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    shown = decode(pipe.vae, latents)
    assert pipe.vae.dtype == torch.float16
    exact = decode(opened(tmp_path).vae, latents)
    assert (shown - exact).abs().max() < 0.02  # of weights that float16 has rounded
    pipe.vae.register_to_config(force_upcast=False)
    assert not decode(pipe.vae, latents).isfinite().all()


@pytest.mark.parametrize("error", [KeyError("missing"), RuntimeError("mat1 and mat2\ncannot be multiplied")])
def test_any_exception_is_one_line_with_its_reason(sd15_folder: Path, error: Exception) -> None:
    pipe = opened(sd15_folder)

    def fail(*_: Any) -> None:
        raise error

    pipe.unet.register_forward_pre_hook(fail)
    with pytest.raises(NbenchError, match=rf"does not run \({type(error).__name__}: .*\): check") as caught:
        call_pipeline(pipe, prompt=["a"], num_inference_steps=1)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA"), RuntimeError("can't allocate memory")])
def test_memory_that_does_not_suffice_stays_what_it_is(sd15_folder: Path, error: Exception) -> None:
    pipe = opened(sd15_folder)

    def fail(*_: Any) -> None:
        raise error

    pipe.unet.register_forward_pre_hook(fail)
    with pytest.raises(type(error)):
        call_pipeline(pipe, prompt=["a"], num_inference_steps=1)


def test_the_latent_space_is_asked_for_in_the_same_way(sd15_folder: Path) -> None:
    with pytest.raises(NbenchError, match=r"StableDiffusionPipeline does not run \(ValueError: .*divisible by 8"):
        space_of(opened(sd15_folder), None, {"height": 17, "width": 16})


def test_several_frames_are_refused_before_the_denoiser_runs(tmp_path: Path) -> None:
    pipe = opened(save_wan(tmp_path))
    pipe.transformer.register_forward_pre_hook(lambda *_: pytest.fail("it ran"))
    with pytest.raises(NbenchError, match="have several frames"):
        generate(pipe, ["a"], [1], [2], {"num_inference_steps": 2, "num_frames": 5, "height": 32, "width": 32})


class Returning:
    """A pipeline that returns what it is given."""

    def __init__(self, **output: Any) -> None:
        self.output = SimpleNamespace(**output)

    def __call__(self, output_type: str) -> Any:
        return self.output


def test_single_frames_are_images_and_several_are_not() -> None:
    frames = np.random.default_rng(0).random((2, 1, 4, 4, 3))
    assert np.array_equal(call_pipeline(Returning(frames=frames)).values, frames[:, 0])
    for output in ({"frames": np.zeros((2, 3, 4, 4, 3))}, {"audios": np.zeros((2, 100))}):
        with pytest.raises(NbenchError, match="Returning does not return one image per prompt"):
            call_pipeline(Returning(**output))


@only("sd15")
def test_an_exception_of_a_tokenizer_is_one_line(family: Family, family_folder: Path) -> None:
    """It is asked before the pipeline runs: for prompts that will be cut, and for those of equal length."""
    pipe = load_pipeline(resolve_pipeline(str(family_folder)), "float32", "cpu")

    class Broken:
        model_max_length = 16

        def __call__(self, *arguments: Any, **options: Any) -> Any:
            raise KeyError("no\nsuch token")

    pipe.tokenizer = Broken()
    with pytest.raises(NbenchError, match=r"Broken does not take the prompts \(KeyError: .*check its files$"):
        LoadedPipeline(pipe, {"num_inference_steps": 2}).note([Prompt("a", "red")])
    with pytest.raises(NbenchError, match=r"a tokenizer of StableDiffusionPipeline does not take the prompts"):
        generate(pipe, ["red", "blue"], [1, 2], [2], {"num_inference_steps": 2})
