"""How Parquet encodes int8 latents."""

from __future__ import annotations

from typing import Literal

from ..errors import NbenchError

Int8Encoding = Literal["plain", "dictionary"]
"""dictionary: indices of 8 bits into the at most 255 values; plain: Parquet's smallest integer, of 32 bits."""


def check_int8_encoding(encoding: str | None, format: str, latent_dtype: str) -> None:
    """Refuse an encoding that has nothing to encode.

    Raises:
        NbenchError: dictionary, and the latents are not int8 in Parquet.
    """
    if encoding == "dictionary" and (format, latent_dtype) != ("parquet", "int8"):
        raise NbenchError(
            f"--int8-encoding dictionary is for int8 latents in Parquet, and these are {latent_dtype} in {format}: "
            "leave it out, or change --latent-dtype and --format"
        )
