"""The renderer draws what the caption says; checked by reading colours back from the pixels."""

import itertools

import numpy as np
from scipy import ndimage

from nbench.shapes.grammar import COLOURS, SHAPES, parse, scenes
from nbench.shapes.render import SIZE, Drawing, render


def draw(caption: str, count: int = 20) -> Drawing:
    return render([parse(caption)] * count, np.random.default_rng(0))


def test_images_are_bytes_and_repeatable() -> None:
    chosen = list(itertools.islice(scenes(0, held_out=True), 30))
    first, again = (render(chosen, np.random.default_rng(5)).images for _ in range(2))
    assert first.shape == (30, SIZE, SIZE, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)


def test_as_many_blobs_as_objects() -> None:
    """Counted in the pixels by connected components, independently of the renderer's own record."""
    drawing = draw("three red squares on black background")
    for image in drawing.images:
        assert ndimage.label(image[..., 0] > 110)[1] == 3


def test_the_record_agrees_with_the_caption() -> None:
    drawing = draw("two yellow circles and no crosses on white background")
    assert ((drawing.shape == SHAPES.index("circle")).sum(1) == 2).all()
    assert (drawing.shape != SHAPES.index("cross")).all()
    assert set(drawing.colour[drawing.shape >= 0]) == {COLOURS.index("yellow")}


def test_relations_hold() -> None:
    left = draw("two red circles left of three blue squares on gray background")
    circle = left.shape == SHAPES.index("circle")
    square = left.shape == SHAPES.index("square")
    assert left.x[circle].max() < SIZE / 2 < left.x[square].min()
    above = draw("one red circle above one blue square on gray background")
    red, blue = (
        [np.argwhere(np.abs(image - np.array(rgb)).sum(-1) < 90).mean(0)[0] for image in above.images.astype(int)]
        for rgb in ((220, 40, 40), (45, 75, 230))
    )
    assert (np.array(red) < np.array(blue)).all()


def test_comparisons_hold() -> None:
    drawing = draw("fewer red circles than blue circles on pink background", 100)
    red, blue = ((drawing.colour == COLOURS.index(name)).sum(1) for name in ("red", "blue"))
    assert (red >= 1).all()
    assert (red < blue).all()


def test_objects_stay_apart_and_inside() -> None:
    drawing = render(list(itertools.islice(scenes(1, held_out=False), 300)), np.random.default_rng(1))
    present = drawing.shape >= 0
    assert drawing.x[present].min() > 3
    assert drawing.y[present].max() < SIZE - 3
    for row in range(300):
        places = np.stack([drawing.x[row][present[row]], drawing.y[row][present[row]]], 1)
        distances = np.linalg.norm(places[:, None] - places[None], axis=-1)
        assert (distances[~np.eye(len(places), dtype=bool)] > 6).all()
