"""A scorer as others would package it."""

import torch


class Redness:
    """How much redder than the rest a preview is, whatever the prompt."""

    name = "redness"
    reads = "preview"
    fingerprint = "redness-1"

    def __init__(self, device: str) -> None:
        self.device = device

    def score(self, inputs: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        """Scores [B] of RGB [B, 3, H, W]."""
        red, green, blue = inputs.to(self.device).mean((2, 3)).T
        return red - (green + blue) / 2
