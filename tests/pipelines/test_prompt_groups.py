"""What a candidate is, and what is recorded of it, does not depend on the prompts beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nbench.pipelines.generate import Trajectories, generate
from nbench.pipelines.prompt_groups import prompt_groups
from nbench.sampling.bestofn import BestOfN

from ..sampling.live import Mean
from ..sampling.live import opened as live_pipeline
from ..tiny_pipelines import FAMILIES, Family
from ..tiny_unusual import save_cogview4, save_lumina2
from .conftest import only

STEPS = 3
PROMPTS = [
    "one red circle",
    "two very big green squares above three small blue stars and four yellow circles on gray background",
    "a blue star",
    "five white stars left of one black square",
]
SEEDS = [1, 2, 3, 4]


def opened(save: Callable[[Path], Path], path: Path) -> tuple[Any, dict[str, Any]]:
    pipe, arguments = live_pipeline(save(path))
    return pipe, {**arguments, "num_inference_steps": STEPS, "guidance_scale": 4.0}


def assert_alone(pipe: Any, arguments: dict[str, Any], signals: list[str]) -> Trajectories:
    """Every row of a batch is what its prompt and seed give alone; the batch."""
    whole = generate(pipe, PROMPTS, SEEDS, [0, STEPS], arguments, signals)
    for i, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS, strict=True)):
        alone = generate(pipe, [prompt], [seed], [0, STEPS], arguments, signals)
        assert torch.allclose(whole.latents[STEPS][i], alone.latents[STEPS][0], atol=1e-4, rtol=1e-4)
        assert np.abs(whole.images[i].astype(int) - alone.images[0]).max() <= 1
        for layer, places in alone.activations.items():
            assert torch.allclose(whole.activations[layer][0][i], places[0][0], atol=1e-4, rtol=1e-3)
        if alone.cfg_gap is not None:
            assert whole.cfg_gap is not None
            assert torch.allclose(whole.cfg_gap[i], alone.cfg_gap[0], rtol=1e-3)
        if alone.x0:
            assert torch.allclose(whole.x0[0][i], alone.x0[0][0], atol=1e-3, rtol=1e-3)
    return whole


def test_padding_without_a_mask(tmp_path: Path) -> None:
    pipe, arguments = opened(save_cogview4, tmp_path)
    stock = [
        pipe(
            prompt=prompts,
            generator=[torch.Generator().manual_seed(1) for _ in prompts],
            output_type="latent",
            **arguments,
        ).images[0]
        for prompts in (PROMPTS[:1], PROMPTS[:2])
    ]
    assert (stock[0] - stock[1]).abs().max() > 1e-3  # the pipeline itself does not keep the promise
    assert_alone(pipe, arguments, ["latent", "x0", "cfg_gap", "activations:transformer_blocks.0"])
    assert prompt_groups(pipe, [*PROMPTS, "one red square"], arguments) == [[0, 2, 4], [1], [3]]
    assert "encode_prompt" not in vars(pipe)


def test_best_each_keeps_it_too(tmp_path: Path) -> None:
    pipe, arguments = opened(save_cogview4, tmp_path)
    assert_each(pipe, arguments)


def assert_each(pipe: Any, arguments: dict[str, Any]) -> None:
    """All candidates of several prompts at a time are those of their prompts alone."""
    scorer = Mean()
    best = BestOfN(pipe, scorer, n=2, policy=f"{STEPS}:2", keep=2)
    together = best.best_each(PROMPTS, **arguments)
    seen = torch.cat(scorer.batches)
    assert [one.scores.keys() for result in together for one in result.candidates] == [{STEPS}] * 8
    for prompt, result in zip(PROMPTS, together, strict=True):
        for one in result.candidates:
            alone = generate(pipe, [prompt], [one.seed], [STEPS], arguments).latents[STEPS]
            assert min(float((alone[0] - row).abs().max()) for row in seen) <= 1e-3
            assert one.scores[STEPS] == pytest.approx(float(alone.mean()), abs=1e-3)


@only("sana", "pixart")
def test_masks_of_several_images_each(family: Family, family_folder: Path) -> None:
    pipe, arguments = live_pipeline(family_folder)
    assert_each(pipe, {**arguments, "num_inference_steps": STEPS})


@pytest.mark.parametrize("layer", ["layers.0", "layers.1.feed_forward", "layers.0.norm1.norm"])
def test_activations_of_a_joint_sequence(tmp_path: Path, layer: str) -> None:
    assert_alone(*opened(save_lumina2, tmp_path), ["latent", f"activations:{layer}"])


@pytest.mark.parametrize("family", [one for one in FAMILIES if one.name == "qwen-image"], indirect=True)
def test_activations_of_the_text_stream(family: Family, family_folder: Path) -> None:
    pipe, arguments = live_pipeline(family_folder)
    arguments |= {"num_inference_steps": STEPS, "true_cfg_scale": 4.0}
    assert_alone(pipe, arguments, ["latent", "activations:transformer_blocks.0"])
    assert prompt_groups(pipe, PROMPTS, arguments) == [[0, 1, 2, 3]]  # its masks keep latents apart


@only("sd15", "sdxl", "sd3", "flux", "pixart", "sana", "z-image")
def test_prompts_padded_to_a_fixed_length_share_a_batch(family: Family, family_folder: Path) -> None:
    pipe, arguments = live_pipeline(family_folder)
    assert prompt_groups(pipe, PROMPTS, arguments, pooled=True) == [[0, 1, 2, 3]]
