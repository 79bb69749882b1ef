"""InstructBLIP's VQAScore against scores of t2v_metrics, recorded by `recorded/instruct_blip.py` in its environment."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from nbench.errors import NbenchError
from nbench.scorers.check import WORLD
from nbench.scorers.instruct_blip import InstructBlipScorer
from nbench.scorers.registry import get_scorer

from .recorded.clip_flant5 import images
from .recorded.instruct_blip import PROMPTS, RECORDED, save_converted

EXPECTED = torch.tensor(json.loads(RECORDED.read_text())["scores"])


def test_equals_the_package(tmp_path: Path) -> None:
    assert EXPECTED.unique().numel() == EXPECTED.numel()
    scorer = get_scorer(f"vqascore:{save_converted(tmp_path / 'blip')}?answer=end", WORLD)
    assert isinstance(scorer, InstructBlipScorer)
    assert scorer.name == "vqascore-blip-end"
    scores = torch.stack([scorer.score(image.repeat(len(PROMPTS), 1, 1, 1), PROMPTS) for image in images()])
    torch.testing.assert_close(scores, EXPECTED, rtol=1e-5, atol=0)


def test_what_the_fingerprint_covers_and_what_is_refused(tmp_path: Path) -> None:
    folder = save_converted(tmp_path / "blip")
    before = InstructBlipScorer(folder).fingerprint
    words = folder / "qformer_tokenizer" / "vocab.txt"
    words.write_text(words.read_text() + "\nmore")
    assert InstructBlipScorer(folder).fingerprint != before
    shutil.rmtree(words.parent)
    with pytest.raises(NbenchError, match="lacks the folder qformer_tokenizer"):
        InstructBlipScorer(folder)
