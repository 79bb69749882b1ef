"""Counts the candidates of a build and the bytes of their texts and images, without fetching published data sets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ...errors import NbenchError
from ...shards.rows import encode_image
from ..config import BuildConfig
from ..corruption.world import corrupt_prompts
from ..images.source import ChosenImages, load_image
from ..prompts.choose import Prompt
from ..prompts.request import PromptRequest

KNOWN_PROMPTS = {"cc12m": 10_965_172, "genai-bench": 1_600, "genai-bench-527": 527}
"""Prompts of the data sets that have a name: none is fetched to be counted."""
KNOWN_IMAGES = {"genai-bench": 6}
"""Images per prompt in those that have images: one per rated model."""

PNG_SHARE, WORLD_PNG_SHARE = 0.5, 0.40
"""PNG bytes per byte of RGB: assumed for photographs, and measured on the embedded world."""
UNSEEN_TEXT_BYTES = 500
"""Assumed for the texts of a row, as JSON, if the prompts are not on this machine."""
_LOOKED_AT = 32
"""Images that are read to measure the share of PNG."""


@dataclass(frozen=True)
class Count:
    """`prompts` with `candidates` each, and where the number is known from.

    `text_bytes` is the size of a row's texts as JSON; `png_share` is the bytes of an image as PNG per byte of RGB.
    """

    prompts: int
    candidates: int
    known_from: str
    text_bytes: int
    png_share: float


def published_prompts(request: PromptRequest) -> int | None:
    """Prompts of a published data set; None for others, and where tags select among them."""
    return None if request.tags else KNOWN_PROMPTS.get(str(request.source))


def count_known(request: PromptRequest, published: int | None, candidates: int, share: float) -> Count:
    """The part of an unfetched data set that `request` selects; without a `published` number, its limit.

    Raises:
        NbenchError: it has no limit.
    """
    most = published or request.limit or request.sample
    if most is None:
        raise NbenchError(
            f"the number of images in {request.source} is not known until they are read: give it with --limit"
        )
    source = f"{'as asked' if published is None else f'{published:,}'} in {request.source}, not counted now"
    prompts = min(most, request.limit or most, request.sample or most)
    return Count(prompts, candidates, source, UNSEEN_TEXT_BYTES, share)


def count_read(kind: str, prompts: Sequence[Prompt], candidates: int, share: float) -> Count:
    """The count of prompts that have been read."""
    return Count(len(prompts), candidates, "counted", _text_bytes(kind, prompts), share)


def count_published_images(config: BuildConfig) -> Count:
    """The count of images on the Hub, without fetching any."""
    request, name = config.image_request, str(config.images)
    candidates = config.candidates or len(config.image_columns) or KNOWN_IMAGES.get(name, 1)
    return count_known(request, published_prompts(request) if name in KNOWN_IMAGES else None, candidates, PNG_SHARE)


def png_share(images: ChosenImages, size: tuple[int, int]) -> float:
    """PNG bytes per byte of RGB in a sample of the images, as a build stores them; the default if none can be read."""
    rows, shares = len(images.numbers) * images.candidates, list[float]()
    for row in range(0, rows, -(-rows // _LOOKED_AT)):
        try:
            pixels = load_image(images.encoded(row), size)
        except ValueError:
            continue  # a failed row, which has no image
        shares.append(len(encode_image(pixels)) / pixels.size)
    return sum(shares) / len(shares) if shares else PNG_SHARE


def _text_bytes(kind: str, prompts: Sequence[Prompt]) -> int:
    """Mean bytes per row, as JSON."""
    chosen = corrupt_prompts(prompts) if kind == "ncc" else prompts
    rows = [{**asdict(prompt), "candidate": 0, "seed": 2**62, "status": "ok", "key": prompt.id} for prompt in chosen]
    return -(-sum(len(json.dumps(row).encode()) for row in rows) // len(rows))
