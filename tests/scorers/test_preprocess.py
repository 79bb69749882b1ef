"""Preprocessing against the processors of transformers, which resize with PIL, and against torch's own filter."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from nbench.errors import NbenchError
from nbench.scorers.preprocess import Preprocess

WEIGHTS = Path(__file__).parents[2] / "shapes" / "weights"


def picture(height: int, width: int) -> np.ndarray:
    """Hard edges and noise: what makes resampling overshoot."""
    rng = np.random.default_rng(height)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    image[height // 4 :, : width // 2] = 255
    image[height // 2 :, width // 3 :] = 0
    return image


def as_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("shape", [(32, 32), (512, 512), (300, 421), (97, 60)], ids=str)
@pytest.mark.parametrize(
    "processor",
    [
        CLIPImageProcessorPil(),
        CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 64, "width": 64}),
        CLIPImageProcessorPil(size={"height": 48, "width": 56}, do_center_crop=False, resample=2),
        BlipImageProcessorPil(),
        BlipImageProcessorPil(do_resize=False, do_normalize=False),
        SiglipImageProcessorPil(),
        SiglipImageProcessorPil(size={"height": 384, "width": 384}, resample=2),
    ],
    ids=["clip", "padding crop", "bilinear", "blip", "as it is", "siglip", "siglip 2"],
)
def test_equals_the_models_own_processor(processor: Any, shape: tuple[int, int], tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    image = picture(*shape)
    theirs = processor(images=image, return_tensors="pt").pixel_values
    preprocess = Preprocess.from_folder(tmp_path)
    ours = preprocess(as_tensor(image))
    assert ours.shape == theirs.shape
    off = (ours - theirs).abs() * torch.tensor(preprocess.std)[:, None, None]
    assert off.max() <= 1.01 / 255


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
def test_resize_equals_torchs_filter_where_nothing_overshoots(mode: Any) -> None:
    smooth = 0.5 + 0.3 * torch.sin(torch.linspace(0, 9, 96))[:, None] * torch.cos(torch.linspace(0, 7, 128))
    rgb = smooth.expand(2, 3, 96, 128)
    ours = Preprocess((32, 64), None, (0, 0, 0), (1, 1, 1), mode)(rgb)
    theirs = functional.interpolate(rgb, (32, 64), mode=mode, antialias=True)
    assert (ours - theirs).abs().max() <= 1 / 255


@pytest.mark.parametrize("weights", ["clip", "noisyclip", "vqa"])
def test_shipped_weights_take_the_worlds_images_as_they_are(weights: str) -> None:
    rgb = as_tensor(picture(32, 32))
    torch.testing.assert_close(Preprocess.from_folder(WEIGHTS / weights)(rgb), rgb * 2 - 1)


def test_a_folder_without_or_with_a_foreign_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NbenchError, match=r"no preprocessor_config\.json"):
        Preprocess.from_folder(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"resample": 0, "size": 32}))
    with pytest.raises(NbenchError, match="resample 0"):
        Preprocess.from_folder(tmp_path)
