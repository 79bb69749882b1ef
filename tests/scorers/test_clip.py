"""CLIP scorers against the model's own forward pass."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPModel

from nbench.errors import NbenchError
from nbench.scorers.check import WORLD
from nbench.scorers.clip import CLIPScorer
from nbench.scorers.protocols import TwinTower
from nbench.scorers.registry import get_scorer

WEIGHTS = Path(__file__).parents[2] / "shapes" / "weights"
PROMPTS = ["two red circles on gray background", "one blue square left of three green crosses on white background"]


@pytest.fixture(scope="module")
def scorer() -> CLIPScorer:
    return CLIPScorer(WEIGHTS / "clip")


def test_cosine_equals_the_models_logits(scorer: CLIPScorer) -> None:
    images = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0)) / 255
    model = CLIPModel.from_pretrained(WEIGHTS / "clip", dtype=torch.float32).eval()
    tokens = AutoTokenizer.from_pretrained(WEIGHTS / "clip")(PROMPTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(pixel_values=images * 2 - 1, **tokens).logits_per_image / model.logit_scale.exp()
    assert isinstance(scorer, TwinTower)
    text, embeddings = scorer.embed_text(PROMPTS), scorer.embed_inputs(images)
    torch.testing.assert_close(embeddings @ text.T, logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.cat([text, embeddings]).norm(dim=-1), torch.ones(4))


def test_a_prompts_embedding_does_not_depend_on_its_company(scorer: CLIPScorer) -> None:
    alone = torch.cat([scorer.embed_text([prompt]) for prompt in PROMPTS])
    torch.testing.assert_close(scorer.embed_text(PROMPTS), alone, atol=1e-5, rtol=0)
    assert scorer.embed_text(["red " * 100]).shape == alone[:1].shape  # longer than it can read: cut


def test_fingerprint_tells_weights_and_what_is_read(scorer: CLIPScorer, tmp_path: Path) -> None:
    noisy = get_scorer("noisyclip", WORLD)
    assert (noisy.name, noisy.reads) == ("noisyclip", "preview")
    for file in (WEIGHTS / "clip").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert CLIPScorer(tmp_path).fingerprint == scorer.fingerprint  # of the content, not the place
    assert CLIPScorer(tmp_path, reads="image").fingerprint != scorer.fingerprint
    config = tmp_path / "preprocessor_config.json"
    config.write_text(config.read_text().replace('"resample": 3', '"resample": 2'))
    assert CLIPScorer(tmp_path).fingerprint != scorer.fingerprint


def test_what_is_no_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NbenchError, match=r"no config\.json"):
        CLIPScorer(tmp_path).load()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(NbenchError, match="no model nobody/nothing-here"):
        CLIPScorer("nobody/nothing-here")


@pytest.mark.parametrize("part", ["vision_model.encoder", "text_projection"])
def test_a_folder_without_some_of_the_tensors_is_refused(tmp_path: Path, part: str) -> None:
    shutil.copytree(WEIGHTS / "clip", tmp_path, dirs_exist_ok=True)
    tensors = {name: tensor for name, tensor in load_file(tmp_path / "model.safetensors").items() if part not in name}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(NbenchError, match=rf"lacks \d+ of the model's tensors \({part}"):
        CLIPScorer(tmp_path).load()
