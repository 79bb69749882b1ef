"""Every stage of the recipe, for about a minute each: the loss falls, and what is saved opens again."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from transformers import AutoTokenizer, BlipForQuestionAnswering, CLIPModel

from nbench.shapes.recipe import clip, denoiser, unet, vae, vqa
from nbench.shapes.recipe.naming import objects_by_patch
from nbench.shapes.render import render

pytestmark = pytest.mark.slow


def falls(losses: list[float]) -> bool:
    return losses[-1] < 0.9 * losses[0]


def test_clip_learns(tmp_path: Path) -> None:
    assert falls(clip.train(tmp_path, steps=60, batch_size=32))
    CLIPModel.from_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)("two red circles").input_ids[0] == 2


def test_vae_learns(tmp_path: Path) -> None:
    assert falls(vae.train(tmp_path, steps=60, batch_size=16))
    assert AutoencoderKL.from_pretrained(tmp_path).config.latent_channels == 4


def test_denoiser_learns(tmp_path: Path) -> None:
    losses = denoiser.train(tmp_path, None, None, steps=60, batch_size=32, cached=500)
    assert losses[2] < 0.9 * losses[0]  # of flow matching alone: later ones have other targets
    pipe = DiffusionPipeline.from_pretrained(tmp_path)
    assert pipe("two red circles on gray background", num_inference_steps=2).images[0].size == (32, 32)


def test_the_second_denoiser_learns(tmp_path: Path) -> None:
    losses = unet.train(tmp_path, None, None, steps=30, batch_size=16, cached=200)
    assert losses[-1] < 0.5 * losses[0]
    pipe = DiffusionPipeline.from_pretrained(tmp_path)
    assert pipe("two red circles on gray background", num_inference_steps=2).images[0].size == (32, 32)


def test_vqa_learns(tmp_path: Path) -> None:
    assert falls(vqa.train(tmp_path, None, steps=30, batch_size=16))
    assert BlipForQuestionAnswering.from_pretrained(tmp_path).config.vision_config.image_size == 32


def test_a_stage_is_deterministic(tmp_path: Path) -> None:
    first, again = (vae.train(tmp_path / name, steps=3, batch_size=4) for name in ("a", "b"))
    assert first == again
    weights = [(tmp_path / name / "diffusion_pytorch_model.safetensors").read_bytes() for name in ("a", "b")]
    assert weights[0] == weights[1]


def test_objects_are_named_in_their_patch() -> None:
    import itertools

    import numpy as np

    from nbench.shapes.grammar import scenes

    drawing = render(list(itertools.islice(scenes(0, held_out=False), 20)), np.random.default_rng(0))
    named = objects_by_patch(drawing, 8)
    assert named.shape == (20, 16, 24)
    for row in range(20):
        for slot in np.flatnonzero(drawing.shape[row] >= 0):
            patch = int(drawing.y[row, slot] // 8) * 4 + int(drawing.x[row, slot] // 8)
            assert named[row, patch, drawing.colour[row, slot] * 4 + drawing.shape[row, slot]] == 1
    assert named.sum() <= (drawing.shape >= 0).sum()


@pytest.mark.parametrize(
    ("caption", "wrong"),
    [
        ("two red circles left of one blue square", [0] * 8),
        ("two red circles left of one green square", [0, 0, 0, 0, 0, 0, 1, 0]),
        ("three red circles above one blue square", [1, 0, 0, 1, 0, 0, 0]),
    ],
)
def test_wrong_words_are_marked(caption: str, wrong: list[int]) -> None:
    assert vqa.wrong_words("two red circles left of one blue square", caption) == wrong


def test_the_vqa_model_starts_with_the_eyes_of_clip() -> None:
    torch.manual_seed(0)
    eyes, model, pixels = clip.build_clip(), vqa.build_vqa(), torch.rand(8, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        before = model.vision_model(pixels).last_hidden_state
        vqa.see_like(model, eyes, pixels)
        after, wanted = (tower(pixels).last_hidden_state for tower in (model.vision_model, eyes.vision_model))
        wanted = eyes.vision_model.post_layernorm(wanted)
    alike = torch.nn.functional.cosine_similarity(after, wanted, dim=-1)
    assert alike.mean() > 0.9
    assert torch.nn.functional.cosine_similarity(before, wanted, dim=-1).mean() < 0.5
