"""What an image shows is read exactly: all that is drawn, and nothing that is not."""

import itertools
import random

import numpy as np
import pytest

from nbench.shapes.grammar import CORRUPTION_KINDS, corrupt, parse, scenes
from nbench.shapes.recipe.vqa import near_miss
from nbench.shapes.render import GRID, SIZE, render
from nbench.shapes.truth import matches, read

SCENES = list(itertools.islice(scenes(11, held_out=True), 1000))
DRAWING = render(SCENES, np.random.default_rng(11))


def test_every_cell_is_read() -> None:
    background, look = read(DRAWING.images)
    np.testing.assert_array_equal(background, DRAWING.background)
    drawn = np.full((len(SCENES), GRID, GRID, 2), -1)
    row, slot = (DRAWING.shape >= 0).nonzero()
    down, across = (axis[row, slot].astype(int) * GRID // SIZE for axis in (DRAWING.y, DRAWING.x))
    drawn[row, down, across, 0], drawn[row, down, across, 1] = DRAWING.colour[row, slot], DRAWING.shape[row, slot]
    np.testing.assert_array_equal(look, drawn)


def test_a_drawn_scene_is_what_it_says() -> None:
    assert matches(DRAWING.images, SCENES).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", CORRUPTION_KINDS)
def test_it_is_not_what_a_corrupted_caption_says(kind: str) -> None:
    rng = random.Random(kind)
    assert not matches(DRAWING.images, [corrupt(scene, kind, rng) for scene in SCENES]).any()


def test_nor_what_a_near_miss_says() -> None:
    rng = random.Random(0)
    missed = [near_miss(*drawn, rng) for drawn in zip(SCENES, DRAWING.x, DRAWING.y, strict=True)]
    assert not matches(DRAWING.images, missed).any()
    assert {scene.relation for scene in missed} >= {"left of", "above", "more", "fewer", "no"}


def test_one_object_too_many_is_seen() -> None:
    crowded = render([parse("one red circle left of one blue square on gray background")], np.random.default_rng(0))
    assert not matches(crowded.images, [parse("one red circle on gray background")]).any()
