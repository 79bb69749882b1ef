"""VQAScore by image-text-to-text models of many classes, against each one's own processor and forward pass."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils import is_torchvision_available

from nbench.errors import NbenchError
from nbench.scorers.vqascore import ChatVQAScorer, vqa_scorer

from .tiny_chat_models import CHAT_MODELS, save_chat_model, tokenizer

PROMPTS = ["two red circles on gray background", "blue", "two blue circles on red background", "red"]
PICTURES = np.random.default_rng(0).integers(0, 256, (4, 48, 40, 3), dtype=np.uint8)
PICTURES[1, :24], PICTURES[2, :, :20], PICTURES[3] = 0, 255, PICTURES[3] // 4


def by_transformers(model: Any, processor: Any, picture: np.ndarray, prompt: str) -> float:
    """P("Yes") of one image and prompt."""
    question = f'Does this figure show "{prompt}"? Please answer yes or no.'
    image = Image.fromarray(picture)
    if getattr(processor, "chat_template", None):
        content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
    else:
        placed = "<image>" if type(processor).__name__ == "LlavaProcessor" else ""
        inputs = processor(images=image, text=placed + question, return_tensors="pt")
    assert (inputs["input_ids"] == processor.tokenizer.bos_token_id).sum() == 1
    if model.config.get_text_config().is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.tensor([[model.config.get_text_config().decoder_start_token_id]])
    with torch.no_grad():
        chances = model(**inputs).logits[0, -1].softmax(-1)
    return float(chances[processor.tokenizer.convert_tokens_to_ids("Yes")])


@pytest.mark.parametrize("name", CHAT_MODELS)
def test_every_class_is_asked_as_transformers_asks_it_in_batches_as_singly(name: str, tmp_path: Path) -> None:
    scorer = vqa_scorer(save_chat_model(name, tmp_path))
    images = torch.from_numpy(PICTURES).permute(0, 3, 1, 2) / 255
    scores = scorer.score(images, PROMPTS)
    model, processor = (kind.from_pretrained(tmp_path) for kind in (AutoModelForImageTextToText, AutoProcessor))
    expected = [by_transformers(model.eval(), processor, *row) for row in zip(PICTURES, PROMPTS, strict=True)]
    torch.testing.assert_close(scores, torch.tensor(expected), atol=1e-8, rtol=1e-5)
    alone = torch.cat([scorer.score(images[row : row + 1], PROMPTS[row : row + 1]) for row in range(4)])
    torch.testing.assert_close(scores, alone, atol=1e-8, rtol=1e-5)
    others = scorer.score(images.flip(0), PROMPTS)
    assert ((others / scores).log().abs() > 1e-4).all()  # so that another image would have been noticed


def test_a_model_that_cannot_say_yes_is_refused(tmp_path: Path) -> None:
    save_chat_model("git", tmp_path)
    words = tokenizer()
    text = words.backend_tokenizer.to_str().replace('"Yes"', '"Oui"')
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(NbenchError, match="has no token for Yes"):
        ChatVQAScorer(tmp_path).load()


def test_a_model_that_takes_no_question_is_refused_when_asked(tmp_path: Path) -> None:
    scorer = vqa_scorer(save_chat_model("llava", tmp_path))
    with pytest.raises(NbenchError, match=r"does not answer questions about images \(.*<image>"):
        scorer.score(torch.rand(1, 3, 32, 32), ["a second <image>"])


@pytest.mark.skipif(is_torchvision_available(), reason="torchvision is here")
def test_a_package_that_a_processor_needs_is_named(tmp_path: Path) -> None:
    save_chat_model("llava", tmp_path)
    settings = json.loads((tmp_path / "processor_config.json").read_text())
    (tmp_path / "processor_config.json").write_text(json.dumps(settings | {"processor_class": "PixtralProcessor"}))
    with pytest.raises(NbenchError, match=r"needs a missing package \(.*Torchvision.*\): install it"):
        vqa_scorer(tmp_path).load()
