"""How many candidates a build will have, and how large their texts and images are; published sets are not fetched."""

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
"""Prompts of the sets that have a name, as known when this was written: none is fetched to be counted."""
KNOWN_IMAGES = {"genai-bench": 6}
"""Images of a prompt in those that have any: one for each model that was rated."""

PNG_SHARE, WORLD_PNG_SHARE = 0.5, 0.40
"""Of RGB as PNG, assumed for photographs and measured on the embedded world."""
UNSEEN_TEXT_BYTES = 500
"""Assumed for the texts of a row, as JSON, where the prompts are not at hand."""
_LOOKED_AT = 32
"""Images that tell the share of all as PNG."""


@dataclass(frozen=True)
class Count:
    """`prompts` with so many `candidates` each, and whence the number is known.

    Of a row `text_bytes` are its texts as JSON; `png_share` is bytes of its image as PNG for a byte of RGB.
    """

    prompts: int
    candidates: int
    known_from: str
    text_bytes: int
    png_share: float


def published_prompts(request: PromptRequest) -> int | None:
    """Prompts of a published set; None of any other one, and where tags choose among them."""
    return None if request.tags else KNOWN_PROMPTS.get(str(request.source))


def count_known(request: PromptRequest, published: int | None, candidates: int, share: float) -> Count:
    """What `request` leaves of a set of which nothing is fetched; without a `published` number its limit tells.

    Raises:
        NbenchError: it has no limit.
    """
    most = published or request.limit or request.sample
    if most is None:
        raise NbenchError(
            f"how many images {request.source} has is not known until it is read: plan with so many by --limit"
        )
    source = f"{'as asked' if published is None else f'{published:,}'} in {request.source}, not counted now"
    prompts = min(most, request.limit or most, request.sample or most)
    return Count(prompts, candidates, source, UNSEEN_TEXT_BYTES, share)


def count_read(kind: str, prompts: Sequence[Prompt], candidates: int, share: float) -> Count:
    """Prompts that are at hand."""
    return Count(len(prompts), candidates, "counted", _text_bytes(kind, prompts), share)


def count_published_images(config: BuildConfig) -> Count:
    """Images on the Hub, of which nothing is fetched."""
    request, name = config.image_request, str(config.images)
    candidates = config.candidates or len(config.image_columns) or KNOWN_IMAGES.get(name, 1)
    return count_known(request, published_prompts(request) if name in KNOWN_IMAGES else None, candidates, PNG_SHARE)


def png_share(images: ChosenImages, size: tuple[int, int]) -> float:
    """Of some images, spread over all, as a build keeps them; what is assumed where none of them can be read."""
    rows, shares = len(images.numbers) * images.candidates, list[float]()
    for row in range(0, rows, -(-rows // _LOOKED_AT)):
        try:
            pixels = load_image(images.encoded(row), size)
        except ValueError:
            continue  # a failed row, which has no image
        shares.append(len(encode_image(pixels)) / pixels.size)
    return sum(shares) / len(shares) if shares else PNG_SHARE


def _text_bytes(kind: str, prompts: Sequence[Prompt]) -> int:
    """Of a row, on average, as JSON."""
    chosen = corrupt_prompts(prompts) if kind == "ncc" else prompts
    rows = [{**asdict(one), "candidate": 0, "seed": 2**62, "status": "ok", "key": one.id} for one in chosen]
    return -(-sum(len(json.dumps(row).encode()) for row in rows) // len(rows))
