"""What an image really shows: compares each of its cells with drawn templates, without a model."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cache

import numpy as np

from .grammar import BACKGROUNDS, COLOURS, SHAPES, Group, Scene
from .render import GRID, MAX_OBJECTS, RADIUS, SIZE, paint

CELL = SIZE // GRID
_NO_OBJECT = (-1, -1)


def matches(images: np.ndarray, scenes: Sequence[Scene]) -> np.ndarray:
    """bool [B]: whether images, uint8 [B, 32, 32, 3], show exactly what their scenes say, and no other object."""
    backgrounds, looks = read(images)
    rows = zip(backgrounds, looks, scenes, strict=True)
    return np.array([BACKGROUNDS[back] == scene.background and _holds(look, scene) for back, look, scene in rows])


def read(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Backgrounds int [B], and colour and shape of the object in each cell int [B, 4, 4, 2], -1 where there is none.

    Both are those of the nearest template by squared error; all cells of an image have the same background.
    """
    templates, background, look = _templates()
    cells = images.reshape(-1, GRID, CELL, GRID, CELL, 3).transpose(0, 1, 3, 2, 4, 5)
    pixels = cells.reshape(len(images), GRID * GRID, -1).astype(np.float32)
    error = np.square(pixels).sum(-1, keepdims=True) - 2 * pixels @ templates.T + np.square(templates).sum(-1)
    by_background = np.stack([error[..., background == index] for index in range(len(BACKGROUNDS))], 1)
    chosen = by_background.min(-1).sum(-1).argmin(1)
    nearest = by_background[np.arange(len(images)), chosen].argmin(-1)
    return chosen, look[background == 0][nearest].reshape(-1, GRID, GRID, 2)


def _holds(look: np.ndarray, scene: Scene) -> bool:
    present = look[..., 0] >= 0
    groups = [present & _is(look, group) for group in scene.groups]
    counts = [int(group.sum()) for group in groups]
    if scene.relation == "no":
        return counts == [scene.groups[0].count, 0] and present.sum() == counts[0]
    if present.sum() != sum(counts):
        return False
    if scene.relation in ("more", "fewer"):
        more, fewer = counts if scene.relation == "more" else counts[::-1]
        return more > fewer >= 1
    if counts != [group.count for group in scene.groups]:
        return False
    if scene.relation:
        axis = 1 if scene.relation == "left of" else 0
        first, second = (np.argwhere(group)[:, axis] for group in groups)
        return bool(first.max() < second.min())
    return True


def _is(look: np.ndarray, group: Group) -> np.ndarray:
    of_shape = look[..., 1] == SHAPES.index(group.shape)
    return of_shape & (look[..., 0] == COLOURS.index(group.colour)) if group.colour else of_shape


@cache
def _templates() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells float [M, 8 * 8 * 3], their background [M] and look [M, 2]; the same looks for every background in turn."""
    places = list(itertools.product(RADIUS, (-0.5, 0.0, 0.5), (-0.5, 0.0, 0.5)))
    looks = [(_NO_OBJECT, (0.0, 0.0, 0.0))]
    looks += [(look, at) for look in itertools.product(range(len(COLOURS)), range(len(SHAPES))) for at in places]
    every = [(back, look, at) for back in range(len(BACKGROUNDS)) for look, at in looks]
    table = np.full((len(every), MAX_OBJECTS, 2), -1)
    background, table[:, 0] = np.array([back for back, _, _ in every]), np.array([look for _, look, _ in every])
    radius, x, y = np.zeros((3, len(every), MAX_OBJECTS), np.float32)
    radius[:, 0], x[:, 0], y[:, 0] = (np.array([at[i] for _, _, at in every]) + CELL / 2 * (i > 0) for i in range(3))
    images = paint(table[..., 0], table[..., 1], background, radius, x, y)
    return images[:, :CELL, :CELL].reshape(len(every), -1).astype(np.float32), background, table[:, 0]
