"""Dual encoders for latents: they start as what the RGB model saw, are told the noise level, and open again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from transformers import AutoModel

from nbench.errors import NbenchError
from nbench.pipelines.noise_levels import run_positions
from nbench.scorers.clip import CLIPScorer
from nbench.scorers.dual_encoder import adapted, deepened, noise_share, open_dual_encoder, unit_scale
from nbench.scorers.image_processor import ImageProcessor
from nbench.shards.schema import LatentSpace, PositionInfo, PreviewMap

from .tiny_models import save_clip, save_siglip

MAP = PreviewMap(((0.1, 0.2, 0.0, -0.1), (0.0, 0.1, 0.1, 0.1), (-0.2, 0.1, 0.3, 0.0)), (0.4, 0.5, 0.6))
SPACE = LatentSpace((4, 16, 16), MAP)


@pytest.fixture(scope="module", params=["clip", "siglip"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / request.param
    return save_clip(path) if request.param == "clip" else save_siglip(path)


def test_a_layer_for_latents_sees_what_the_rgb_layer_saw_of_their_previews(folder: Path) -> None:
    """Latents that are constant in each patch have constant previews there, so both must agree to rounding."""
    base, process = open_dual_encoder(folder), ImageProcessor(folder)
    model = adapted(base, SPACE, process, "latent", "none")
    blocks = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0)) / 4
    latents = blocks.repeat_interleave(4, 2).repeat_interleave(4, 3)
    rgb = torch.einsum("rc,bchw->brhw", torch.tensor(MAP.weight), blocks) + torch.tensor(MAP.bias)[:, None, None]
    mean, std = (torch.tensor(values)[:, None, None] for values in process.normalisation)
    pixels = ((rgb - mean) / std).repeat_interleave(8, 2).repeat_interleave(8, 3)
    with torch.no_grad():
        expected = base.get_image_features(pixel_values=pixels).pooler_output
        torch.testing.assert_close(model.get_image_features(pixel_values=latents).pooler_output, expected)


def test_more_layers_start_as_the_same_function_and_all_of_them_learn(folder: Path, tmp_path: Path) -> None:
    base = open_dual_encoder(folder).eval()
    model = deepened(base, 3).eval()
    layers = model.vision_model.encoder.layers
    assert len(layers) == 3 * len(base.vision_model.encoder.layers)
    pixels = torch.randn(2, 3, 32, 32)
    output = model.get_image_features(pixel_values=pixels).pooler_output
    torch.testing.assert_close(output, base.get_image_features(pixel_values=pixels).pooler_output)
    output[:, 0].sum().backward()
    assert all(
        part.weight.grad.abs().max() > 0 for layer in layers for part in (layer.self_attn.out_proj, layer.mlp.fc2)
    )
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path).get_image_features(pixel_values=pixels).pooler_output
    torch.testing.assert_close(again, output)


@pytest.mark.parametrize("kind", ["token", "adaln"])
def test_the_noise_level_starts_without_effect_and_can_be_learnt(folder: Path, tmp_path: Path, kind: str) -> None:
    base = open_dual_encoder(folder).eval()
    model = adapted(base, SPACE, ImageProcessor(folder), "preview", kind).eval()
    pixels, levels = torch.randn(2, 3, 32, 32), torch.tensor([0.1, 0.4])
    expected = base.get_image_features(pixel_values=pixels).pooler_output
    output = model.get_image_features(pixel_values=pixels, noise_level=levels).pooler_output
    torch.testing.assert_close(output, expected)
    output[0, 0].backward()
    assert model.noise_level.leave.weight.grad.abs().sum() > 0
    torch.nn.init.normal_(model.noise_level.leave.weight)
    outputs = [
        model.get_image_features(pixel_values=pixels, noise_level=at).pooler_output for at in (levels, levels * 2)
    ]
    assert not torch.allclose(*outputs)
    model.save_pretrained(tmp_path / "saved")
    again = open_dual_encoder(tmp_path / "saved").eval()
    torch.testing.assert_close(
        again.get_image_features(pixel_values=pixels, noise_level=levels).pooler_output, outputs[0]
    )


def test_a_model_of_latents_that_is_not_told_the_level_opens_in_stock_transformers(
    folder: Path, tmp_path: Path
) -> None:
    model = adapted(open_dual_encoder(folder), SPACE, ImageProcessor(folder), "latent", "none")
    model.save_pretrained(tmp_path / "saved")
    stock = AutoModel.from_pretrained(tmp_path / "saved")
    assert type(stock).__module__.startswith("transformers.")
    latents = torch.randn(2, 4, 16, 16)
    with torch.no_grad():
        outputs = [each.eval().get_image_features(pixel_values=latents).pooler_output for each in (model, stock)]
    torch.testing.assert_close(*outputs)


def test_patches_that_do_not_fit_the_grid_interpolate_the_position_embeddings(tmp_path: Path) -> None:
    folder = save_clip(tmp_path / "clip")
    model = adapted(open_dual_encoder(folder), LatentSpace((4, 18, 18), MAP), ImageProcessor(folder), "latent", "none")
    assert model.config.vision_config.patch_size == 4  # 8 * 18 / 32, rounded
    assert model.get_image_features(pixel_values=torch.randn(1, 4, 18, 18)).pooler_output.shape == (1, 8)


def test_the_scorer_is_told_the_position(tmp_path: Path) -> None:
    folder = save_clip(tmp_path / "clip")
    model = adapted(open_dual_encoder(folder), SPACE, ImageProcessor(folder), "latent", "token")
    torch.nn.init.normal_(model.noise_level.leave.weight)
    scorer = CLIPScorer(folder, model=model.eval())
    assert (scorer.reads, scorer.conditioned) == ("latent", True)
    latents, at = torch.randn(2, 4, 16, 16), PositionInfo(3, 750.0, 0.75, 1.0)
    features = model.get_image_features(pixel_values=latents, noise_level=torch.full((2,), 3 / 7)).pooler_output
    torch.testing.assert_close(
        scorer.embed_inputs(latents, at), torch.nn.functional.normalize(features, dim=-1).detach()
    )


@pytest.mark.parametrize(
    "scheduler",
    [
        FlowMatchEulerDiscreteScheduler(),
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
        DDIMScheduler(),
        EulerDiscreteScheduler(),
        DPMSolverMultistepScheduler(),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_latents_of_all_schedulers_are_scaled_alike(scheduler: Any) -> None:
    """Latents made by the scheduler itself become (1 - m) x0 + m noise, and m is what the model is told."""
    scheduler.set_timesteps(10)
    clean, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    for at in run_positions(scheduler)[:-1]:
        time = scheduler.timesteps[at.position].expand(2)
        if hasattr(scheduler, "scale_noise"):
            latents = scheduler.scale_noise(clean, time, noise)
        else:
            latents = scheduler.add_noise(clean, noise, time)
        told = noise_share(at)
        m = told / (1 - told)
        torch.testing.assert_close(latents * unit_scale(at), (1 - m) * clean + m * noise, atol=2e-3, rtol=2e-3)


def test_without_signal_all_is_noise() -> None:
    assert noise_share(PositionInfo(0, 999.0, None, 1.0)) == noise_share(PositionInfo(0, 1000.0, 1.0, 1.0)) == 0.5


@pytest.mark.parametrize(
    ("space", "naflex", "need"),
    [
        (LatentSpace((4, 16, 8), MAP), False, "square latents, not 16x8"),
        (LatentSpace((4, 16, 16), None), False, "a data set with a preview map"),
        (LatentSpace((4, 16, 16), MAP), True, "a tower that begins with a convolution"),
    ],
)
def test_latents_that_do_not_fit_are_refused(tmp_path: Path, space: LatentSpace, naflex: bool, need: str) -> None:
    folder = save_siglip(tmp_path / "siglip", naflex)
    base = open_dual_encoder(folder)
    with pytest.raises(NbenchError, match=f"a model of latents needs {need}"):
        adapted(base, space, ImageProcessor(folder), "latent", "none")
