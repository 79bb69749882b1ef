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
from nbench.scorers.chat_vqa import ChatVQAScorer
from nbench.scorers.check import WORLD
from nbench.scorers.registry import get_scorer
from nbench.scorers.vqascore import T2V_QUESTIONS, vqa_scorer

from .tiny_chat_models import CHAT_MODELS, save_chat_model, tokenizer

PROMPTS = ["two red circles on gray background", "blue", "two blue circles on red background", "red"]
PICTURES = np.random.default_rng(0).integers(0, 256, (4, 48, 40, 3), dtype=np.uint8)
PICTURES[1, :24], PICTURES[2, :, :20], PICTURES[3] = 0, 255, PICTURES[3] // 4


QUESTION = 'Does this figure show "{prompt}"? Please answer yes or no.'


def by_transformers(
    model: Any, processor: Any, picture: np.ndarray, prompt: str, question: str = QUESTION, end: int | None = None
) -> float:
    """P("Yes") of one image and prompt; with the token `end`, the root of P("Yes") P(end | "Yes")."""
    question = question.format(prompt=prompt)
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
    yes = processor.tokenizer.convert_tokens_to_ids("Yes")
    with torch.no_grad():
        chance = float(model(**inputs).logits[0, -1].softmax(-1)[yes])
        if end is None:
            return chance
        inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([[yes]])], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        return float((chance * model(**inputs).logits[0, -1].softmax(-1)[end]) ** 0.5)


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


def test_the_end_of_the_answer_counts_if_asked_for_and_the_question_of_the_package_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_chat_model("idefics3", tmp_path)
    model, processor = (kind.from_pretrained(tmp_path) for kind in (AutoModelForImageTextToText, AutoProcessor))
    end = processor.tokenizer.convert_tokens_to_ids("No")  # of those that random weights do not rule out
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": end}))
    images, rows = torch.from_numpy(PICTURES[:2]).permute(0, 3, 1, 2) / 255, zip(PICTURES[:2], PROMPTS, strict=False)
    expected = [by_transformers(model.eval(), processor, *row, end=end) for row in rows]
    scorer = get_scorer(f"vqascore:{tmp_path}?answer=end", WORLD)
    torch.testing.assert_close(scorer.score(images, PROMPTS[:2]), torch.tensor(expected), atol=1e-8, rtol=1e-5)  # type: ignore[attr-defined]
    assert get_scorer(f"vqascore:{tmp_path}?answer=yes", WORLD).fingerprint != scorer.fingerprint
    with pytest.raises(NbenchError, match=r"\?question=t2v is not for .*\(idefics3\): there is t2v, for qwen2_vl"):
        get_scorer(f"vqascore:{tmp_path}?question=t2v", WORLD)
    monkeypatch.setitem(T2V_QUESTIONS, "idefics3", T2V_QUESTIONS["qwen2_5_vl"])
    other = get_scorer(f"vqascore:{tmp_path}?question=t2v", WORLD)
    asked = by_transformers(model, processor, PICTURES[0], PROMPTS[0], 'Does this image show "{prompt}"?')
    torch.testing.assert_close(other.score(images[:1], PROMPTS[:1]), torch.tensor([asked]), atol=1e-8, rtol=1e-5)  # type: ignore[attr-defined]


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
