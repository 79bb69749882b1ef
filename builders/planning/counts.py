"""How many candidates a build will have, and how large their texts and images are; published sets are not fetched."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from ...errors import NbenchError
from ...shards.rows import encode_image
from ..config import BuildConfig
from ..corruption.world import corrupt_prompts
from ..images.given import given_images, on_hub
from ..images.source import ChosenImages, load_image
from ..prompts.choose import Prompt, load_prompts
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


def count(config: BuildConfig, image_size: tuple[int, int]) -> Count:
    """What `config` asks for; of images on this machine a few are read, to see how well they compress.

    Raises:
        NbenchError: prompts or images that cannot be read, or a data set on the Hub of unknown size.
    """
    if config.process == "forward":
        return _published_images(config) if on_hub(config.images) else _images_here(config, image_size)
    request, n = config.prompt_request, config.n_candidates
    share = WORLD_PNG_SHARE if config.pipeline == "shapes" else PNG_SHARE
    known = _known(request)
    if known is not None:
        return Count(_asked(request, known), n, _uncounted(request, known), UNSEEN_TEXT_BYTES, share)
    prompts = load_prompts(request, config.kind).prompts
    return Count(len(prompts), n, "counted", _text_bytes(config, prompts), share)


def _images_here(config: BuildConfig, size: tuple[int, int]) -> Count:
    chosen, images = given_images(config)
    texts = _text_bytes(config, chosen.prompts)
    return Count(len(chosen.prompts), images.candidates, "counted", texts, _png_share(images, size))


def _published_images(config: BuildConfig) -> Count:
    request, name = config.image_request, str(config.images)
    known = _known(request) if name in KNOWN_IMAGES else None
    most = known or request.limit or request.sample
    if most is None:
        raise NbenchError(f"how many images {name} has is not known until it is read: plan with so many by --limit")
    candidates = config.candidates or len(config.image_columns) or KNOWN_IMAGES.get(name, 1)
    return Count(_asked(request, most), candidates, _uncounted(request, known), UNSEEN_TEXT_BYTES, PNG_SHARE)


def _known(request: PromptRequest) -> int | None:
    return None if request.tags else KNOWN_PROMPTS.get(str(request.source))


def _asked(request: PromptRequest, there: int) -> int:
    return min(there, request.limit or there, request.sample or there)


def _uncounted(request: PromptRequest, known: int | None) -> str:
    return f"{'as asked' if known is None else f'{known:,}'} in {request.source}, not counted now"


def _text_bytes(config: BuildConfig, prompts: list[Prompt]) -> int:
    """Of a row, on average, as JSON."""
    chosen: Iterable[Prompt] = corrupt_prompts(prompts) if config.kind == "ncc" else prompts
    rows = [{**asdict(one), "candidate": 0, "seed": 2**62, "status": "ok", "key": one.id} for one in chosen]
    return -(-sum(len(json.dumps(row).encode()) for row in rows) // len(rows))


def _png_share(images: ChosenImages, size: tuple[int, int]) -> float:
    """Of some images, spread over all, as a build keeps them; what is assumed where none of them can be read."""
    rows, found = len(images.numbers) * images.candidates, list[float]()
    for row in range(0, rows, -(-rows // _LOOKED_AT)):
        try:
            pixels = load_image(images.encoded(row), size)
        except ValueError:
            continue  # a failed row, which has no image
        found.append(len(encode_image(pixels)) / pixels.size)
    return sum(found) / len(found) if found else PNG_SHARE
