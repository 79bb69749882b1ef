"""The scorer `truth`: right for what is drawn, wrong for near misses, and only for the embedded world."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nbench.errors import NbenchError
from nbench.scorers.protocols import PairScorer
from nbench.scorers.references import load_reference, parse_reference, try_scorer
from nbench.shapes.grammar import CORRUPTION_KINDS, corrupt, scenes
from nbench.shapes.render import render

from ..small_bench import make_bench


def test_it_tells_the_caption_of_a_drawing_from_its_near_misses(tmp_path: Path) -> None:
    info = make_bench(tmp_path / "bench")[0].info
    scorer = load_reference(parse_reference("truth"), info)
    assert isinstance(scorer, PairScorer)
    try_scorer(scorer, info)
    drawn = list(itertools.islice(scenes(5, held_out=True), 200))
    images = torch.from_numpy(render(drawn, np.random.default_rng(5)).images).permute(0, 3, 1, 2).float() / 255
    assert scorer.score(images, [scene.caption for scene in drawn]).tolist() == [1.0] * 200
    for kind in CORRUPTION_KINDS:
        wrong = [corrupt(scene, kind, random.Random(kind)).caption for scene in drawn]
        assert scorer.score(images, wrong).tolist() == [0.0] * 200


def test_other_images_and_captions_are_refused(tmp_path: Path) -> None:
    info = make_bench(tmp_path / "bench")[0].info
    with pytest.raises(NbenchError, match=r"truth reads images of the embedded world, 32x32, not 64x48"):
        load_reference(parse_reference("truth"), replace(info, image_size=(48, 64)))
    scorer = load_reference(parse_reference("truth"), info)
    assert isinstance(scorer, PairScorer)
    with pytest.raises(NbenchError, match="truth knows the captions of the embedded world alone, not 'a red car'"):
        scorer.score(torch.rand(1, 3, 32, 32), ["a red car"])
