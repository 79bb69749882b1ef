"""Rows computed fall with the living, and the survivors of every family are those of the full run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.hooks import (
    FirstBlockCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
    apply_first_block_cache,
    apply_pyramid_attention_broadcast,
    apply_taylorseer_cache,
)

from nbench.errors import NbenchError
from nbench.pipelines.generate import generate
from nbench.pipelines.pruning import Pruner, is_compiled
from nbench.pipelines.watch import Watch
from nbench.sampling.bestofn import BestOfN

from ..sampling.live import PROMPT, STEPS, Mean, opened, plain, state
from ..tiny_pipelines import FAMILIES, Family
from ..tiny_unusual import save_wan

SEEDS = [11, 12, 13, 14]
TOLERANCE = 1e-4
"""Of latents of about unit variance, in float32: a product of another size rounds otherwise."""


def pruned(pipe: Any, arguments: dict[str, Any], stages: dict[int, list[int]], **kwargs: Any) -> tuple[Any, Pruner]:
    """Run all seeds, keeping the candidates of `stages` from their positions on."""
    pruner = Pruner(pipe, len(SEEDS), arguments)
    with (
        pruner,
        Watch(pipe, lambda _: "nothing", lambda position, *_: pruner.keep(stages.get(position, pruner.living))),
    ):
        return plain(pipe, SEEDS, arguments, **kwargs), pruner


def test_survivors_and_rows_of_every_family(family: Family, family_folder: Path) -> None:
    pipe, arguments = opened(family_folder)
    full = plain(pipe, SEEDS, arguments)
    before = state(pipe)
    found, pruner = pruned(pipe, arguments, {1: [0, 1, 3], 3: [1]})
    each = 1 if family.guidance == "embedded" else 2
    assert (pruner.rows, pruner.asked) == ((4 * 1 + 3 * 2 + 1 * 2) * each, 4 * STEPS * each)
    assert (found[1] - full[1]).abs().max() <= TOLERANCE * full[1].abs().max().clamp(min=1)  # some reach hundreds
    assert not torch.allclose(found[0], full[0], atol=0.01)  # it had left
    assert state(pipe) == before
    assert torch.equal(plain(pipe, SEEDS, arguments), full)


@pytest.mark.parametrize("name", ["EulerAncestralDiscrete", "DDPM", "DPMSolverMultistep", "UniPCMultistep"])
def test_noise_drawn_on_the_way_stays_each_candidates_own(sd15_folder: Path, name: str) -> None:
    pipe, arguments = opened(sd15_folder)
    pipe.scheduler = getattr(diffusers, f"{name}Scheduler").from_config(pipe.scheduler.config)
    full = plain(pipe, SEEDS, arguments)
    found, _ = pruned(pipe, arguments, {2: [0, 3]})
    assert (found[[0, 3]] - full[[0, 3]]).abs().max() <= TOLERANCE * full[[0, 3]].std()


def test_only_survivors_are_decoded(family: Family, family_folder: Path) -> None:
    pipe, arguments = opened(family_folder)
    decoded, decode = [], pipe.vae.decode

    def counted(latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        decoded.append(len(latents))
        return decode(latents, *args, **kwargs)

    pipe.vae.decode = counted
    full = plain(pipe, SEEDS, arguments, output_type="np")
    found, _ = pruned(pipe, arguments, {2: [2]}, output_type="np")
    assert decoded == [4, 1]
    assert abs(found[2] - full[2]).max() <= 1e-3
    assert pipe.vae.decode is counted


def test_a_pruner_that_keeps_all_changes_no_bit(sd15_folder: Path) -> None:
    pipe, arguments = opened(sd15_folder)
    found, pruner = pruned(pipe, arguments, {})
    assert torch.equal(found, plain(pipe, SEEDS, arguments))
    assert pruner.rows == pruner.asked


def test_the_pipeline_is_restored_after_an_error(sd15_folder: Path) -> None:
    pipe, arguments = opened(sd15_folder)
    plain(pipe, SEEDS, arguments)
    before = state(pipe)

    def fails(*_: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), Pruner(pipe, 4, arguments), Watch(pipe, lambda _: "nothing", fails):
        plain(pipe, SEEDS, arguments)
    assert state(pipe) == before


def test_rows_that_are_not_the_batchs_are_refused(sd15_folder: Path) -> None:
    pipe, arguments = opened(sd15_folder)
    with pytest.raises(NbenchError, match="8 rows for 3 candidates"), Pruner(pipe, 3, arguments):
        plain(pipe, SEEDS, arguments)


@pytest.mark.slow
@pytest.mark.parametrize("whole", [True, False])
def test_a_compiled_denoiser_sees_few_sizes(sd15_folder: Path, whole: bool) -> None:
    pipe, arguments = opened(sd15_folder)
    full, sizes = plain(pipe, SEEDS, arguments), []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        sizes.append(len(inputs))
        return graph.forward

    torch.compiler.reset()
    assert not is_compiled(pipe)
    if whole:
        pipe.unet = torch.compile(pipe.unet, backend=backend)
    else:
        pipe.unet.compile(backend=backend)
    assert is_compiled(pipe)
    plain(pipe, SEEDS, arguments)
    before = state(pipe)
    torch.compiler.reset()
    sizes.clear()
    found, pruner = pruned(pipe, arguments, {1: [0, 1, 3], 2: [1, 3], 3: [1]})
    assert sizes  # it was compiled at all
    assert pruner.rows == 2 * (4 + 4 + 2 + 1 + 1)  # three living are padded to four
    assert (found[1] - full[1]).abs().max() <= TOLERANCE
    assert state(pipe) == before


def first_block(pipe: Any) -> None:
    apply_first_block_cache(pipe.transformer, FirstBlockCacheConfig(threshold=0.1))


def pyramid(pipe: Any) -> None:
    config = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_block_identifiers=["transformer_blocks"],
        current_timestep_callback=lambda: 500,
    )
    apply_pyramid_attention_broadcast(pipe.transformer, config)


def taylor(pipe: Any) -> None:
    apply_taylorseer_cache(pipe.transformer, TaylorSeerCacheConfig(cache_identifiers=["transformer_blocks.0.attn"]))


def enabled(pipe: Any) -> None:
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))


@pytest.mark.parametrize("put_on", [first_block, pyramid, taylor, enabled])
@pytest.mark.parametrize("family", [family for family in FAMILIES if family.name == "flux"], indirect=True)
def test_caches_of_every_kind_are_refused(put_on: Callable[[Any], None], family: Family, family_folder: Path) -> None:
    pipe, arguments = opened(family_folder)
    pipe.transformer.register_forward_hook(lambda *_: pytest.fail("it ran"))
    put_on(pipe)
    with pytest.raises(NbenchError, match=r"FluxTransformer2DModel has a cache \(\w+\), which keeps whole batches"):
        BestOfN(pipe, Mean(), n=3, policy="2:1").best("a red dog", **arguments)


class Stacked(torch.nn.Module):
    """A denoiser around another, which is given text as [layers, B, S, D], as HiDream's is."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, sample: torch.Tensor, timestep: Any, layers: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        assert ids.shape == (4, 3)
        noise: torch.Tensor = self.inner(sample, timestep, encoder_hidden_states=layers.mean(0)).sample
        return noise


class Stacking(diffusers.StableDiffusionPipeline):
    """Calls such a denoiser, with places of tokens beside, of which there are as many as rows by chance."""

    @torch.no_grad()
    def __call__(
        self,
        prompt: Any,
        num_inference_steps: int,
        generator: list[torch.Generator],
        output_type: str,
        num_images_per_prompt: int = 1,
    ) -> Any:
        text = self.encode_prompt(prompt, "cpu", num_images_per_prompt, False)[0]
        self.scheduler.set_timesteps(num_inference_steps)
        latents = self.prepare_latents(len(text), 4, 16, 16, text.dtype, "cpu", generator)
        for timestep in self.scheduler.timesteps:
            noise = self.unet(latents, timestep, torch.stack([text, 3 * text]), ids=torch.zeros(4, 3))
            latents = self.scheduler.step(noise, timestep, latents).prev_sample
        return diffusers.pipelines.ImagePipelineOutput(images=latents)


def test_a_batch_on_another_axis_and_ids_as_many_as_rows(sd15_folder: Path) -> None:
    stock, arguments = opened(sd15_folder)
    pipe = Stacking(**stock.components, requires_safety_checker=False)
    pipe.unet = Stacked(pipe.unet)
    full = plain(pipe, SEEDS, arguments)
    found, pruner = pruned(pipe, arguments, {2: [1, 2]})
    assert (pruner.rows, pruner.asked) == (2 * 4 + 3 * 2, 5 * 4)
    assert (found[1:3] - full[1:3]).abs().max() <= TOLERANCE * full.abs().max().clamp(min=1)
    assert not torch.allclose(found[0], full[0], atol=0.01)


@pytest.fixture(params=[False, True], ids=["one", "two"])
def wan(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, dict[str, Any]]:
    return opened(save_wan(tmp_path, two=request.param))


def test_video_pipelines_of_one_frame(wan: tuple[Any, dict[str, Any]]) -> None:
    """Frames in place of images, no `num_images_per_prompt`, and one denoiser or two."""
    pipe, arguments = wan
    rows: list[int] = []
    for name in ("transformer", "transformer_2"):
        if (model := getattr(pipe, name)) is not None:
            model.blocks[0].register_forward_hook(lambda module, args, output: rows.append(len(output)))
    result = BestOfN(pipe, Mean(), n=3, policy="2:2,4:1").best(PROMPT, **arguments)
    assert rows == [3] * 4 + [2] * 4 + [1] * 2  # two calls a step
    seeds = [one.seed for one in result.candidates]
    made = generate(pipe, [PROMPT] * 3, seeds, [2, STEPS], arguments, ["latent", "cfg_gap", "activations:blocks.0"])
    assert made.cfg_gap is not None
    assert made.cfg_gap.shape == (3, STEPS)
    assert (made.cfg_gap > 0).all()
    assert made.activations["blocks.0"][2].isfinite().all()
    for one, latent in zip(result.candidates, made.latents[2], strict=True):
        assert one.scores[2] == pytest.approx(float(latent.mean()), abs=1e-4)
    winner = made.images[seeds.index(result.seeds[0])]
    assert np.abs(np.asarray(result.images[0]).astype(int) - winner).max() <= 1


def test_pipelines_of_several_stages_are_refused_before_the_work(sd15_folder: Path) -> None:
    pipe, _ = opened(sd15_folder)

    class Combined:
        """Runs another pipeline, whose parts it shows as its own, as Kandinsky's combined ones do."""

        unet, scheduler, vae, name_or_path = pipe.unet, pipe.scheduler, pipe.vae, None

        def __call__(self, prompt: Any, num_inference_steps: int = 5, num_images_per_prompt: int = 1, **_: Any) -> Any:
            pytest.fail("it ran")

    for scorer in (Mean(), "random"):
        with pytest.raises(NbenchError, match=r"Combined runs other pipelines .* use the pipeline of its last stage"):
            BestOfN(Combined(), scorer, n=3, policy="2:1").best(PROMPT, num_inference_steps=5)
