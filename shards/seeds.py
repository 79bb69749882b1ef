"""One seed per candidate, so that its noise does not depend on the rest of the data set."""

from __future__ import annotations

import hashlib


def candidate_seed(base_seed: int, prompt_id: str, candidate: int) -> int:
    """The seed of a candidate, 0..2**63-1: a hash of its names alone.

    >>> candidate_seed(0, "shapes-00012", 3)
    3984239266630764061
    """
    digest = hashlib.sha256(f"{base_seed}/{prompt_id}/{candidate}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 1
