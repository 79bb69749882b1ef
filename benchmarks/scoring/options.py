"""Options of scoring a bench."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from ...errors import NbenchError, check_range, one_line
from ...options import panel
from ...scorers.placement import CPU, Placement

_scoring = panel("Scoring")


def parse_batch_size(text: str) -> int | None:
    """The batch size in `text`; None for auto.

    Raises:
        NbenchError: neither auto nor a number of 1 or more.
    """
    if text != "auto" and not (text.isdecimal() and len(text) < 10 and int(text) > 0):
        raise NbenchError(f"--batch-size {one_line(text, 60)} is out of range: give auto, or 1 or more")
    return None if text == "auto" else int(text)


@dataclass(frozen=True)
class ScoreOptions:
    """Options of scoring.

    Attributes:
        batch_size: rows per batch of a scorer; None starts large and halves when memory runs out.
        captions: also score the corrupted captions, if the bench has them.
        preview: linear, tiny or tiny:FOLDER-OR-HUB-ID; see `preview_decoder`.
        vae: folder or Hub id of the pipeline or VAE that decodes x0 estimates; None for the bench's own pipeline.
        ahead: batches that a thread reads in advance; 0 for none.
        placement: device and dtype for decoding latents.

    Raises:
        NbenchError: `ahead` is negative.
    """

    batch_size: Annotated[
        int | None,
        _scoring(
            "Rows per batch of a scorer; auto: as many as fit in memory.",
            text=str,
            default="auto",
            parse=parse_batch_size,
        ),
    ] = None
    captions: Annotated[
        bool, _scoring("Also score corrupted captions, to measure their separation from true ones.")
    ] = False
    preview: Annotated[str, _scoring("Latent preview: linear, tiny (TAESD) or tiny:FOLDER-OR-HUB-ID.")] = "linear"
    vae: Annotated[
        str | None, _scoring("VAE that decodes x0 estimates: folder or Hub id. [default: the bench's pipeline]")
    ] = None
    ahead: Annotated[int, _scoring("Batches that a thread reads in advance; 0 for none.", flag="--num-workers")] = 0
    placement: Placement = CPU

    def __post_init__(self) -> None:
        check_range("--num-workers", self.ahead, 0)

    def here(self) -> ScoreOptions:
        """With the placement on this machine.

        Raises:
            NbenchError: there is no such device.
        """
        return replace(self, placement=self.placement.here())
