"""Images that carry captions: a folder, tar shards or a data set on the Hub; read one at a time."""

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
"""Of one image: more is no photograph but a mistake, or a bomb."""


@dataclass(frozen=True)
class ImageSource:
    """Somebody's images and the table of their captions, neither read yet.

    A row of the table has `per_row` images, those of `models` where they are named: the candidates of its prompt.
    `read(row, candidate)` gives an image as it is encoded, None where there is none; reading rows in ascending order is
    what all sources are good at. `ratings` goes through the table and gives the mean human rating of each image of a
    row, NaN where nobody rated it; None where the source knows no ratings. `revision` pins what cannot change.
    """

    table: Table
    per_row: int
    read: Callable[[int, int], bytes | None]
    models: tuple[str, ...] = ()
    ratings: Callable[[], Iterator[Sequence[float]]] | None = None
    revision: str | None = None


@dataclass(frozen=True)
class ChosenImages:
    """The images of the prompts of a build: `numbers` are the rows of the source, a prompt each."""

    source: ImageSource
    numbers: Sequence[int]
    candidates: int

    def encoded(self, row: int) -> bytes | None:
        """The image of row `row` of the build; None where there is none."""
        prompt, candidate = divmod(row, self.candidates)
        return self.source.read(self.numbers[prompt], candidate)

    def spec(self) -> dict[str, Any]:
        """What a build's spec says of them. A revision pins them; without one all are read, and digested."""
        told = {"source": self.source.table.source, "models": list(self.source.models) or None}
        if self.source.revision is not None:
            return told | {"revision": self.source.revision, "rows_sha256": self._digest_of_numbers()}
        total = hashlib.sha256()
        for row in range(len(self.numbers) * self.candidates):
            total.update(hashlib.sha256(self.encoded(row) or b"").digest())
        return told | {"sha256": total.hexdigest()}

    def ratings(self) -> list[Sequence[float]] | None:
        """For each prompt the mean ratings of its images; None where nobody rated any."""
        if self.source.ratings is None:
            return None
        wanted, found = set(self.numbers), dict[int, Sequence[float]]()
        for number, means in enumerate(self.source.ratings()):
            if number in wanted:
                found[number] = means[: self.candidates]
        rated = any(math.isfinite(mean) for means in found.values() for mean in means)
        return [found[number] for number in self.numbers] if rated else None

    def _digest_of_numbers(self) -> str:
        return hashlib.sha256(",".join(map(str, self.numbers)).encode()).hexdigest()


def choose_images(
    request: PromptRequest, source: ImageSource, candidates: int | None
) -> tuple[PromptSet, ChosenImages]:
    """The captions that are asked for, and their images: all of a caption, or its first `candidates`.

    Raises:
        NbenchError: more candidates than images, captions that are missing, or whatever is wrong with the source.
    """
    if candidates is not None and candidates > source.per_row:
        raise NbenchError(
            f"{source.table.place} has {source.per_row} images a caption: lower --candidates {candidates}"
        )
    rows: dict[str, int] = {}

    def noted() -> Iterator[Prompt]:
        for number, prompt in enumerate(table_prompts(source.table, request.prompt_column, request.id_column)):
            if prompt.text:
                rows.setdefault(prompt.id, number)
            yield prompt

    chosen = choose(request, noted(), source.table)
    numbers = [rows[prompt.id] for prompt in chosen.prompts]
    return chosen, ChosenImages(source, numbers, candidates or source.per_row)


def load_image(data: bytes | None, size: tuple[int, int]) -> np.ndarray:
    """An encoded image as uint8 [h, w, 3] of `size` (height, width): PNG, JPEG or WebP, upright, on white.

    It is scaled until it covers the size, by Lanczos' filter, and its middle is cut out.

    Raises:
        ValueError: there is none, it is of no such format, too large, or damaged; the text says which.
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
            upright = Image.fromarray((np.asarray(upright, np.float64) / 257).round().clip(0, 255).astype(np.uint8))
        whole = upright.convert("RGBA")
    except UnidentifiedImageError:
        raise ValueError(f"image is none of {', '.join(FORMATS)}") from None
    except Exception as error:  # decoders of damaged bytes raise a dozen unrelated types
        raise ValueError(f"image cannot be read: {reason_of(error)}") from None
    flat = Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole).convert("RGB")
    return np.asarray(ImageOps.fit(flat, (size[1], size[0]), Image.Resampling.LANCZOS))
