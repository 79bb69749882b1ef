"""LLaVA-1.5's VQAScore against scores of t2v_metrics, recorded by `recorded/llava.py` in its environment."""

import json
from pathlib import Path

import pytest
import torch

from nbench.errors import NbenchError
from nbench.scorers.check import WORLD
from nbench.scorers.llava import LlavaScorer
from nbench.scorers.registry import get_scorer

from .recorded.clip_flant5 import PROMPTS, images
from .recorded.llava import RECORDED, save_converted
from .tiny_models import save_llava

EXPECTED = torch.tensor(json.loads(RECORDED.read_text())["scores"])


def test_equals_the_package(tmp_path: Path) -> None:
    assert EXPECTED.unique().numel() == EXPECTED.numel()
    scorer = get_scorer(f"vqascore:{save_converted(tmp_path / 'llava')}?answer=end", WORLD)
    assert isinstance(scorer, LlavaScorer)
    assert scorer.name == "vqascore-llava-end"
    scores = torch.stack([scorer.score(image.repeat(len(PROMPTS), 1, 1, 1), PROMPTS) for image in images()])
    torch.testing.assert_close(scores, EXPECTED, rtol=1e-5, atol=0)


def test_other_answers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NbenchError, match=r"\?answer=Yes is unknown: there are yes"):
        get_scorer(f"vqascore:{save_llava(tmp_path)}?answer=Yes", WORLD)
