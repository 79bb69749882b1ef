"""CLIP-FlanT5's VQAScore against scores of t2v_metrics, recorded by `recorded/clip_flant5.py` in its environment."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from nbench.errors import NbenchError
from nbench.scorers.clip_flant5 import CLIPFlanT5Scorer, padded_to_square
from nbench.scorers.vqascore import vqa_scorer

from .recorded.clip_flant5 import PROMPTS, RECORDED, images, save_clip_t5, save_clip_tower, save_tokenizer

EXPECTED = torch.tensor(json.loads(RECORDED.read_text())["scores"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip_flant5")
    return save_tokenizer(save_clip_t5(path / "model", save_clip_tower(path / "clip")))


@pytest.fixture(scope="module")
def scorer(model: Path) -> CLIPFlanT5Scorer:
    scorer = vqa_scorer(model)
    assert isinstance(scorer, CLIPFlanT5Scorer)
    return scorer


def scores(scorer: CLIPFlanT5Scorer) -> torch.Tensor:
    """Scores [image, prompt]; each image with all prompts in a batch."""
    return torch.stack([scorer.score(image.repeat(len(PROMPTS), 1, 1, 1), PROMPTS) for image in images()])


def test_equals_the_package(scorer: CLIPFlanT5Scorer) -> None:
    assert EXPECTED.unique().numel() == EXPECTED.numel()
    torch.testing.assert_close(scores(scorer), EXPECTED, rtol=1e-5, atol=0)


def test_yes_alone_is_the_chance_of_the_first_token(model: Path) -> None:
    (image, *_), firsts = images(), []
    scorer = CLIPFlanT5Scorer(model, end=False)
    scorer.load()
    answers, yes = scorer._model.answer_logits, scorer._tokenizer("Yes").input_ids[0]

    def seen(*inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = answers(*inputs)
        firsts.append(logits[:, 0, : len(scorer._tokenizer)].softmax(-1)[:, yes])
        return logits

    scorer._model.answer_logits = seen
    torch.testing.assert_close(scorer.score(image, PROMPTS[:1]), firsts[0], rtol=1e-5, atol=0)
    assert vqa_scorer(model, answer="yes").fingerprint == scorer.fingerprint != vqa_scorer(model).fingerprint


def test_a_checkpoint_without_clip_takes_the_one_it_names(model: Path, tmp_path: Path) -> None:
    bare = save_tokenizer(save_clip_t5(tmp_path / "model", model.parent / "clip", with_tower=False))
    torch.testing.assert_close(scores(CLIPFlanT5Scorer(bare)), EXPECTED, rtol=1e-5, atol=0)


def test_half_a_model_is_refused(model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    tensors = load_file(folder / "model.safetensors")
    lost = next(name for name in tensors if name.startswith("vision_tower."))
    save_file({key: value for key, value in tensors.items() if key != lost}, folder / "model.safetensors")
    with pytest.raises(NbenchError, match="lacks 1 of the model's tensors"):
        CLIPFlanT5Scorer(folder).load()
    (folder / "model.safetensors").unlink()
    with pytest.raises(NbenchError, match=r"has no safetensors, .* or use t2v:MODEL"):
        CLIPFlanT5Scorer(folder)


def test_images_are_padded_as_pil_pastes_them() -> None:
    mean = [0.48145466, 0.4578275, 0.40821073]
    for image in images():
        pixels = (image[0] * 255).round().byte().permute(1, 2, 0).numpy()
        height, width = pixels.shape[:2]
        side = max(height, width)
        square = Image.new("RGB", (side, side), tuple(int(value * 255) for value in mean))
        square.paste(Image.fromarray(pixels), ((side - width) // 2, (side - height) // 2))
        padded = (padded_to_square(image, mean)[0] * 255).round().byte().permute(1, 2, 0)
        assert square.tobytes() == padded.numpy().tobytes()
