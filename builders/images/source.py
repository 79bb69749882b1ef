"""Images with captions: a folder, tar shards or a data set on the Hub; read one at a time."""

from __future__ import annotations

import hashlib
import io
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import NbenchError, reason_of
from ..prompts.choose import PromptSet, choose
from ..prompts.request import PromptRequest
from ..prompts.rows import Prompt, Table, table_prompts

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_BYTES, MAX_PIXELS = 2**26, 2**26
"""Limits of one image: a larger one is a mistake, or a decompression bomb."""


@dataclass(frozen=True)
class ImageSource:
    """Unread images, and the table of their captions.

    A row of the table has `per_row` images, the candidates of its prompt; `models` are their generators, if named.
    `read(row, candidate)` returns an encoded image, None if there is none; rows in ascending order are fast in all
    sources. `ratings` iterates over the table and yields the mean human rating of each image of a row, NaN where nobody
    rated it; it is None if the source has no ratings. `revision` is the commit, where that pins the content.
    """

    table: Table
    per_row: int
    read: Callable[[int, int], bytes | None]
    models: tuple[str, ...] = ()
    ratings: Callable[[], Iterator[Sequence[float]]] | None = None
    revision: str | None = None


@dataclass(frozen=True)
class ChosenImages:
    """The images of the prompts of a build: `numbers` are the rows of the source, one per prompt."""

    source: ImageSource
    numbers: Sequence[int]
    candidates: int

    def encoded(self, row: int) -> bytes | None:
        """The encoded image of row `row` of the build; None if there is none."""
        prompt, candidate = divmod(row, self.candidates)
        return self.source.read(self.numbers[prompt], candidate)

    def spec(self) -> dict[str, Any]:
        """Their entry in a build's spec: pinned by a revision, else by a digest of all images."""
        entry = {"source": self.source.table.source, "models": list(self.source.models) or None}
        if self.source.revision is not None:
            return entry | {"revision": self.source.revision, "rows_sha256": self._digest_of_numbers()}
        total = hashlib.sha256()
        for row in range(len(self.numbers) * self.candidates):
            total.update(hashlib.sha256(self.encoded(row) or b"").digest())
        return entry | {"sha256": total.hexdigest()}

    def ratings(self) -> list[Sequence[float]] | None:
        """The mean ratings of the images per prompt; None if nobody rated any."""
        if self.source.ratings is None:
            return None
        wanted, row_means = set(self.numbers), dict[int, Sequence[float]]()
        for number, means in enumerate(self.source.ratings()):
            if number in wanted:
                row_means[number] = means[: self.candidates]
        rated = any(math.isfinite(mean) for means in row_means.values() for mean in means)
        return [row_means[number] for number in self.numbers] if rated else None

    def _digest_of_numbers(self) -> str:
        return hashlib.sha256(",".join(map(str, self.numbers)).encode()).hexdigest()


def choose_images(
    request: PromptRequest, source: ImageSource, candidates: int | None
) -> tuple[PromptSet, ChosenImages]:
    """The captions that `request` selects, and their images: all per caption, or the first `candidates`.

    Raises:
        NbenchError: more candidates than images, missing captions, or another problem of the source.
    """
    if candidates is not None and candidates > source.per_row:
        raise NbenchError(
            f"{source.table.place} has {source.per_row} images per caption: lower --candidates {candidates}"
        )
    rows: dict[str, int] = {}

    def numbered() -> Iterator[Prompt]:
        for number, prompt in enumerate(table_prompts(source.table, request.prompt_column, request.id_column)):
            if prompt.text:
                rows.setdefault(prompt.id, number)
            yield prompt

    chosen = choose(request, numbered(), source.table)
    numbers = [rows[prompt.id] for prompt in chosen.prompts]
    return chosen, ChosenImages(source, numbers, candidates or source.per_row)


def load_image(data: bytes | None, size: tuple[int, int]) -> np.ndarray:
    """An encoded image as uint8 [h, w, 3] of `size` (height, width): PNG, JPEG or WebP, upright, on white.

    It is scaled to cover the size, with a Lanczos filter, and cropped at the centre.

    Raises:
        ValueError: no image, another format, too large, or damaged; the text says which.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if data is None:
        raise ValueError("no image")
    if len(data) > MAX_BYTES:
        raise ValueError(f"image of {len(data)} bytes, more than {MAX_BYTES}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is lower
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels, more than {MAX_PIXELS}")
        image.load()
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):  # grey levels of 16 bits, which Pillow would cut off at 255
            levels, clear = np.asarray(upright, np.float64), image.info.get("transparency")
            upright = Image.fromarray((levels / 257).round().clip(0, 255).astype(np.uint8))
            if isinstance(clear, int):
                upright.putalpha(Image.fromarray(np.where(levels == clear, 0, 255).astype(np.uint8)))
        whole = upright.convert("RGBA")
    except UnidentifiedImageError:
        raise ValueError(f"image is none of {', '.join(FORMATS)}") from None
    except Exception as error:  # decoders of damaged bytes raise a dozen unrelated types
        raise ValueError(f"image cannot be read: {reason_of(error)}") from None
    flat = Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole).convert("RGB")
    return np.asarray(ImageOps.fit(flat, (size[1], size[0]), Image.Resampling.LANCZOS))
