"""VQAScore against its definition, computed on the model's own generation and on its training loss."""

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, BlipForQuestionAnswering

from nbench.errors import NbenchError
from nbench.scorers.chat_vqa import ChatVQAScorer
from nbench.scorers.protocols import PairScorer
from nbench.scorers.vqascore import VQAScorer, vqa_scorer

from .tiny_models import save_clip, save_llava

WEIGHTS = Path(__file__).parents[2] / "shapes" / "weights" / "vqa"
PROMPTS = ["two red circles on gray background", "one blue square left of three green crosses on white background"]


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0)) / 255


@pytest.fixture(scope="module")
def scores(images: torch.Tensor) -> torch.Tensor:
    scorer = VQAScorer(WEIGHTS)
    assert isinstance(scorer, PairScorer)
    return scorer.score(images, PROMPTS)


def test_is_the_probability_of_yes_in_generation_and_in_the_loss(images: torch.Tensor, scores: torch.Tensor) -> None:
    model = BlipForQuestionAnswering.from_pretrained(WEIGHTS, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS)
    yes = tokenizer.get_vocab()["yes"]
    for image, prompt, score in zip(images, PROMPTS, scores, strict=True):
        question = tokenizer(f'Does this figure show "{prompt}"? Please answer yes or no.', return_tensors="pt")
        inputs = {"pixel_values": image[None] * 2 - 1, "input_ids": question.input_ids}
        output = model.generate(**inputs, max_new_tokens=1, return_dict_in_generate=True, output_logits=True)
        torch.testing.assert_close(output.logits[0].softmax(-1)[0, yes], score, atol=1e-6, rtol=1e-4)
        with torch.no_grad():
            answer = torch.tensor([[model.decoder_start_token_id, yes]])
            loss = model(**inputs, attention_mask=question.attention_mask, labels=answer).loss
        assert model.config.text_config.label_smoothing == 0
        torch.testing.assert_close((-loss).exp(), score, atol=1e-6, rtol=1e-4)


def test_an_answer_does_not_depend_on_its_company(images: torch.Tensor, scores: torch.Tensor) -> None:
    scorer = VQAScorer(WEIGHTS)  # the questions differ in length: padding must not matter
    alone = torch.cat([scorer.score(images[i : i + 1], PROMPTS[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(scores, alone, atol=1e-6, rtol=1e-4)


def test_is_a_probability_that_depends_on_image_and_prompt(images: torch.Tensor, scores: torch.Tensor) -> None:
    assert ((scores > 0) & (scores < 1)).all()
    swapped = VQAScorer(WEIGHTS).score(images.flip(0), PROMPTS)
    assert (swapped != scores).all()
    assert (VQAScorer(WEIGHTS).score(images, PROMPTS[::-1]) != scores).all()


def test_any_image_text_model_is_asked_through_its_chat_template(tmp_path: Path) -> None:
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    scorer = vqa_scorer(save_llava(tmp_path))
    assert isinstance(scorer, ChatVQAScorer)
    images = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0)) / 255
    prompts = ["two red circles", "blue"]  # of different lengths: each must be read at its own end
    scores = scorer.score(images, prompts)
    model = LlavaForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(tmp_path)
    for image, prompt, score in zip(images, prompts, scores, strict=True):
        text = f'USER <image> Does this figure show "{prompt}"? Please answer yes or no. ASSISTANT '
        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        inputs = processor(images=[pixels], text=[text], return_tensors="pt")
        output = model.generate(**inputs, max_new_tokens=1, return_dict_in_generate=True, output_logits=True)
        yes = processor.tokenizer.get_vocab()["Yes"]
        torch.testing.assert_close(output.logits[0].softmax(-1)[0, yes], score, atol=1e-6, rtol=1e-4)
    assert scores[0] != scores[1]


def test_blip_and_others_are_output_apart_and_the_rest_is_refused(tmp_path: Path) -> None:
    assert isinstance(vqa_scorer(WEIGHTS), VQAScorer)
    with pytest.raises(NbenchError, match="does not answer questions about images"):
        vqa_scorer(save_clip(tmp_path)).load()
