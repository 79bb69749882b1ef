"""Rendered scenes of the embedded world with their captions, none of a combination that benches hold out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from ...errors import NbenchError
from ...shapes.grammar import scenes
from ...shapes.render import render
from ...shards.rows import encode_image
from ..prompts.rows import Table
from .source import ImageSource

PREFIX = "shapes:"
_SEED = 11


def world_images(source: str) -> ImageSource:
    """The scenes of `shapes:COUNT`; the first ones of a larger count are the same.

    Raises:
        NbenchError: COUNT is not a positive number.
    """
    text = source.removeprefix(PREFIX)
    count = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
    if count < 1:
        raise NbenchError(f"--images {source}: write {PREFIX}COUNT, such as {PREFIX}10000")
    drawn = list(islice(scenes(_SEED, held_out=False), count))

    def rows(names: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        for number, scene in enumerate(drawn):
            yield {"id": f"scene-{number}", "prompt": scene.caption}

    def read(row: int, candidate: int) -> bytes:
        return encode_image(render([drawn[row]], np.random.default_rng([_SEED, row])).images[0])

    table = Table("shapes", source, ("id", "prompt"), rows, len(str(count)))
    return ImageSource(table, 1, read, revision=f"seed {_SEED}")
