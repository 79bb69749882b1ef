"""What an image of the embedded world really shows, as a scorer: comparison with drawn templates, without a model."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..errors import NbenchError, one_line
from ..shapes.grammar import Scene, parse
from ..shapes.render import SIZE
from ..shapes.truth import matches
from ..shards.schema import LatentSpace
from .protocols import Reads


class TruthScorer:
    """A PairScorer: 1 if an image shows exactly what its caption says and nothing else, else 0.

    Raises:
        NbenchError: the images do not have the size of the embedded world's.
    """

    name = "truth"
    reads: Reads = "image"
    fingerprint = "truth-1"

    def __init__(self, space: LatentSpace) -> None:
        if tuple(space.image_size) not in ((SIZE, SIZE), (0, 0)):
            height, width = space.image_size
            raise NbenchError(
                f"truth reads images of the embedded world, {SIZE}x{SIZE}, not {width}x{height}: name another scorer"
            )

    def score(self, inputs: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """0 or 1, float64 [B], of RGB images [B, 3, 32, 32] in 0..1.

        Raises:
            NbenchError: a caption is not one of the embedded world's.
        """
        images = (inputs * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        return torch.from_numpy(matches(images, [_scene(prompt) for prompt in prompts])).double()


def _scene(prompt: str) -> Scene:
    try:
        return parse(prompt)
    except ValueError:
        raise NbenchError(
            f"truth knows the captions of the embedded world alone, not {one_line(prompt)!r}: name another scorer"
        ) from None
