"""Draws scenes as 32x32 images: anti-aliased signed-distance shapes, one batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .grammar import BACKGROUNDS, COLOURS, SHAPES, Scene

SIZE = 32
GRID = 4
"""Objects are in the cells of a 4x4 grid: a cell is a patch of the world's models, so that they learn in minutes."""
MAX_OBJECTS = 6
RADIUS = (3.0, 3.6)
"""Smallest and largest radius of an object, in pixels."""
_COLOUR_RGB = np.array(
    [[220, 40, 40], [40, 165, 60], [45, 75, 230], [240, 215, 40], [150, 50, 190], [60, 210, 220]], np.float32
)
_BACKGROUND_RGB = np.array([[128, 128, 128], [245, 245, 245], [15, 15, 15], [250, 170, 190]], np.float32)


@dataclass(frozen=True)
class Drawing:
    """A rendered batch and the truth about it.

    images: uint8 [B, 32, 32, 3]; colour, shape: int [B, 6], -1 where there is no object;
    x, y: float [B, 6], centres in pixels; background: int [B].
    """

    images: np.ndarray
    colour: np.ndarray
    shape: np.ndarray
    x: np.ndarray
    y: np.ndarray
    background: np.ndarray


def render(scenes: Sequence[Scene], rng: np.random.Generator) -> Drawing:
    """Draw one image per scene; what the caption leaves open (places, sizes, shades) is random."""
    n = len(scenes)
    colour = np.full((n, MAX_OBJECTS), -1)
    shape = np.full((n, MAX_OBJECTS), -1)
    # x_min, x_max, y_min, y_max of the region that an object may be in, as fractions of the canvas
    region = np.tile(np.array([0.0, 1.0, 0.0, 1.0], np.float32), (n, MAX_OBJECTS, 1))
    for row, scene in enumerate(scenes):
        slot = 0
        for index, (group, count) in enumerate(zip(scene.groups, _counts(scene, rng), strict=True)):
            for _ in range(count):
                colour[row, slot] = COLOURS.index(group.colour)
                shape[row, slot] = SHAPES.index(group.shape)
                if scene.relation in ("left of", "above"):
                    axis = 0 if scene.relation == "left of" else 2
                    region[row, slot, axis : axis + 2] = (0.0, 0.5) if index == 0 else (0.5, 1.0)
                slot += 1
    background = np.array([BACKGROUNDS.index(scene.background) for scene in scenes])
    radius, x, y = _place(shape >= 0, region, rng)
    images = paint(colour, shape, background, radius, x, y, rng)
    return Drawing(images, colour, shape, x, y, background)


def _counts(scene: Scene, rng: np.random.Generator) -> list[int]:
    if scene.relation in ("more", "fewer"):
        more = int(rng.integers(2, 5))
        fewer = int(rng.integers(1, min(more, MAX_OBJECTS - more + 1)))
        return [more, fewer] if scene.relation == "more" else [fewer, more]
    return [group.count for group in scene.groups]


def _place(
    present: np.ndarray, region: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Radii and centres: each object in a random free cell of its region, a little off the middle of the cell."""
    n = len(present)
    column, row = np.meshgrid(np.arange(GRID) + 0.5, np.arange(GRID) + 0.5)
    across, down = column.ravel() / GRID, row.ravel() / GRID
    order = rng.random((n, GRID * GRID))
    cell = np.zeros(present.shape, int)
    for slot in range(MAX_OBJECTS):
        left, right, top, bottom = region[:, slot].T[..., None]
        inside = (across > left) & (across < right) & (down > top) & (down < bottom)
        cell[:, slot] = np.where(inside, order, -1).argmax(1)
        order[present[:, slot], cell[present[:, slot], slot]] = -1
    radius = rng.uniform(*RADIUS, present.shape).astype(np.float32)
    slack = SIZE / GRID / 2 - radius - 0.2
    x, y = (SIZE * axis[cell] + slack * rng.uniform(-1, 1, present.shape) for axis in (across, down))
    return radius, x.astype(np.float32), y.astype(np.float32)


def paint(
    colour: np.ndarray,
    shape: np.ndarray,
    background: np.ndarray,
    radius: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """uint8 [B, 32, 32, 3] of objects as in `Drawing`, with their radii in pixels; without `rng` in pure colours."""
    n = len(background)
    canvas = np.broadcast_to(_BACKGROUND_RGB[background][:, None, None], (n, SIZE, SIZE, 3)).copy()
    if rng is not None:
        canvas += rng.normal(0, 4, (n, 1, 1, 3))
    axis = np.arange(SIZE, dtype=np.float32) + 0.5
    for slot in range(MAX_OBJECTS):
        rows = np.flatnonzero(shape[:, slot] >= 0)
        if not len(rows):
            continue
        dx = axis[None, None, :] - x[rows, slot, None, None]
        dy = axis[None, :, None] - y[rows, slot, None, None]
        r = radius[rows, slot, None, None]
        distance = np.empty((len(rows), SIZE, SIZE), np.float32)
        for index, signed_distance in enumerate((_circle, _square, _triangle, _cross)):
            chosen = shape[rows, slot] == index
            distance[chosen] = signed_distance(dx[chosen], dy[chosen], r[chosen])
        cover = np.clip(0.5 - distance, 0, 1)[..., None]
        ink = _COLOUR_RGB[colour[rows, slot]]
        if rng is not None:
            ink = ink + rng.normal(0, 6, (len(rows), 3))
        canvas[rows] += cover * (ink[:, None, None] - canvas[rows])
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def _circle(dx: np.ndarray, dy: np.ndarray, r: np.ndarray) -> np.ndarray:
    return np.hypot(dx, dy) - r


def _square(dx: np.ndarray, dy: np.ndarray, r: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(dx), np.abs(dy)) - 0.86 * r


def _triangle(dx: np.ndarray, dy: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Point up, base at the bottom; image rows grow downwards."""
    return np.maximum(dy - 0.75 * r, 0.894 * np.abs(dx) - 0.447 * (dy + 1.05 * r))


def _cross(dx: np.ndarray, dy: np.ndarray, r: np.ndarray) -> np.ndarray:
    ax, ay = np.abs(dx), np.abs(dy)
    return np.minimum(np.maximum(ax - r, ay - 0.34 * r), np.maximum(ay - r, ax - 0.34 * r))
