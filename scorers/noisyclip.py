"""NoisyCLIP: CLIP with an image tower fine-tuned on previews of noisy latents (Ramos et al., arXiv 2512.08505)."""

from __future__ import annotations

from pathlib import Path

from .clip import CLIPScorer
from .placement import CPU, Placement


class NoisyCLIPScorer(CLIPScorer):
    """A CLIPScorer of NoisyCLIP weights; it reads previews at every position."""

    def __init__(self, source: str | Path, name: str = "noisyclip", placement: Placement = CPU) -> None:
        super().__init__(source, name, "preview", placement)
