"""The inputs of models, against the processors of transformers on PIL images."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.efficientnet.image_processing_pil_efficientnet import EfficientNetImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from nbench.errors import NbenchError
from nbench.scorers.image_processor import ImageProcessor

WEIGHTS = Path(__file__).parents[2] / "shapes" / "weights"
SQUARE = {"height": 32, "width": 32}


def picture(height: int, width: int) -> np.ndarray:
    """Hard edges and noise: what makes resampling overshoot."""
    rng = np.random.default_rng(height)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    image[height // 4 :, : width // 2] = 255
    image[height // 2 :, width // 3 :] = 0
    return image


def as_tensor(*images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize("shape", [(32, 32), (512, 512), (300, 421), (97, 60)], ids=str)
@pytest.mark.parametrize(
    "processor",
    [
        CLIPImageProcessorPil(),
        CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 64, "width": 64}),
        CLIPImageProcessorPil(size={"shortest_edge": 32, "longest_edge": 40}, do_center_crop=False),
        CLIPImageProcessorPil(size={"height": 48, "width": 56}, do_center_crop=False, resample=2),
        CLIPImageProcessorPil(size=SQUARE, do_center_crop=False, resample=1),
        BlipImageProcessorPil(),
        BlipImageProcessorPil(do_resize=False, do_normalize=False),
        BlipImageProcessorPil(do_rescale=False, image_mean=[127.5] * 3, image_std=[127.5] * 3),
        EfficientNetImageProcessorPil(size=SQUARE, rescale_factor=1 / 127.5, rescale_offset=True, do_normalize=False),
        SiglipImageProcessorPil(),
    ],
    ids=["clip", "padding", "longest edge", "bilinear", "lanczos", "blip", "as it is", "not 0..1", "offset", "siglip"],
)
def test_equals_the_models_own_processor(processor: Any, shape: tuple[int, int], tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    images = [picture(*shape), picture(*shape)[::-1].copy()]
    inputs = ImageProcessor(tmp_path)(as_tensor(*images))
    assert list(inputs) == ["pixel_values"]
    for pixels, image in zip(inputs["pixel_values"], images, strict=True):
        theirs = processor(images=Image.fromarray(image), return_tensors="pt").pixel_values[0]
        torch.testing.assert_close(pixels, theirs, atol=0, rtol=0)


def test_what_is_no_image_yet_is_rounded_to_8_bits() -> None:
    image = picture(16, 16)
    process = ImageProcessor(WEIGHTS / "clip")
    off = (torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) - 0.5) * 0.98 / 255
    near = (as_tensor(image) + off).clamp(0, 1)
    assert torch.equal(process(near)["pixel_values"], process(as_tensor(image))["pixel_values"])
    assert process(near, torch.bfloat16)["pixel_values"].dtype == torch.bfloat16


@pytest.mark.parametrize("weights", ["clip", "noisyclip", "vqa"])
def test_shipped_weights_take_the_worlds_images_as_they_are(weights: str) -> None:
    rgb = as_tensor(picture(32, 32))
    torch.testing.assert_close(ImageProcessor(WEIGHTS / weights)(rgb)["pixel_values"], rgb * 2 - 1)


def test_the_defaults_of_its_class_fill_in_what_a_file_leaves_out(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "CLIPImageProcessor"}))
    image = picture(300, 421)
    theirs = CLIPImageProcessorPil()(images=Image.fromarray(image), return_tensors="pt").pixel_values
    assert torch.equal(ImageProcessor(tmp_path)(as_tensor(image))["pixel_values"], theirs)


def test_a_folder_without_a_processor_or_with_a_foreign_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NbenchError, match=r"no image processor in .*save the model's own there"):
        ImageProcessor(tmp_path)
    config = {"auto_map": {"AutoImageProcessor": "mine.Mine"}, "image_processor_type": "Mine"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    (tmp_path / "mine.py").write_text("raise SystemExit('the code of the folder ran')")
    with pytest.raises(NbenchError, match=r"no image processor in "):
        ImageProcessor(tmp_path)


def test_opening_one_says_nothing(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    with caplog.at_level(logging.WARNING):
        ImageProcessor(WEIGHTS / "clip")
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
