"""ImageReward against scores of the package image-reward, recorded by `recorded/image_reward.py` in its environment."""

import json
from pathlib import Path

import pytest
import torch

from nbench.errors import NbenchError
from nbench.scorers.image_reward import NativeImageRewardScorer

from .recorded.image_reward import PROMPTS, RECORDED, images, save_image_reward, tensors

EXPECTED = torch.tensor(json.loads(RECORDED.read_text())["scores"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_image_reward(tmp_path / "model")


def test_equals_the_package(folder: Path) -> None:
    assert EXPECTED.unique().numel() == EXPECTED.numel()
    scorer = NativeImageRewardScorer(folder)
    scores = torch.stack([scorer.score(image.repeat(len(PROMPTS), 1, 1, 1), PROMPTS) for image in images()])
    torch.testing.assert_close(scores, EXPECTED, rtol=1e-5, atol=1e-6)  # rewards pass through 0


def test_the_published_pickle_is_read_and_half_a_model_is_refused(folder: Path) -> None:
    (folder / "ImageReward.safetensors").unlink()
    torch.save(tensors(), folder / "ImageReward.pt")
    (image, *_), scorer = images(), NativeImageRewardScorer(folder)
    torch.testing.assert_close(scorer.score(image, PROMPTS[:1]), EXPECTED[0, :1], rtol=1e-5, atol=1e-6)
    kept = tensors()
    del kept["mlp.layers.2.bias"], kept["blip.text_encoder.encoder.layer.1.output.dense.weight"]
    torch.save(kept, folder / "ImageReward.pt")
    with pytest.raises(NbenchError, match="lacks 2 of the model's tensors"):
        NativeImageRewardScorer(folder).load()
    torch.save({"model": Path("code")}, folder / "ImageReward.pt")
    with pytest.raises(NbenchError, match="no pickle is run"):
        NativeImageRewardScorer(folder).load()
