"""Models of open_clip: a clear line where the package is missing, equal to it where it is here."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nbench.errors import NbenchError
from nbench.scorers.check import WORLD
from nbench.scorers.registry import get_scorer


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)  # so that it is missing wherever the tests run
    with pytest.raises(NbenchError, match=r"needs .*open_clip"):
        get_scorer("open_clip:ViT-B-32", WORLD)


def test_open_clip_models_are_given_what_their_own_transform_makes_of_the_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Network(torch.nn.Linear):
        encode_image = encode_text = torch.nn.Linear.forward

    def transform(image: Image.Image) -> torch.Tensor:
        assert (image.mode, image.size) == ("RGB", (4, 8))
        return torch.from_numpy(np.asarray(image.resize((1, 1)))).float().reshape(3)

    torch.manual_seed(0)
    network = Network(3, 5)
    module = ModuleType("open_clip")
    module.create_model_and_transforms = lambda name, pretrained: (network, None, transform)  # type: ignore[attr-defined]
    module.get_tokenizer = lambda name: lambda prompts: torch.eye(3)[: len(prompts)]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "open_clip", module)
    scorer: Any = get_scorer("open_clip:any", WORLD)
    colours = torch.tensor([[10, 200, 30], [250, 0, 90]])
    embeddings = scorer.embed_inputs((colours / 255)[:, :, None, None].expand(2, 3, 8, 4))
    torch.testing.assert_close(embeddings, torch.nn.functional.normalize(network(colours.float()), dim=-1))
    assert scorer.embed_text(["a", "b"]).shape == (2, 5)


@pytest.mark.slow
def test_open_clip_models_equal_their_own_forward_pass(tmp_path: Path) -> None:
    try:
        import open_clip
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision of another kind than torch
        pytest.skip(f"the extra open_clip is not here: {error}")
    from nbench.scorers.open_clip import OpenCLIPScorer

    torch.manual_seed(0)
    network = open_clip.create_model("RN50", pretrained=None).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    scorer = OpenCLIPScorer("RN50", tmp_path / "weights.pt")
    images = torch.randint(0, 256, (2, 3, 224, 224)) / 255
    prompts = ["two red circles", "a dog"]
    mean, std = (torch.tensor(network.visual.preprocess_cfg[key])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        image_embeddings = torch.nn.functional.normalize(network.encode_image((images - mean) / std), dim=-1)
        text_embeddings = torch.nn.functional.normalize(
            network.encode_text(open_clip.get_tokenizer("RN50")(prompts)), dim=-1
        )
    torch.testing.assert_close(
        scorer.embed_inputs(images) @ scorer.embed_text(prompts).T,
        image_embeddings @ text_embeddings.T,
        atol=1e-4,
        rtol=0,
    )
